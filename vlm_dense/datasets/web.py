"""Training from tar shards in the layout of webdataset, without unpacking."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mmengine.dataset import BaseDataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from vlm_dense.datasets.shard_files import TarBackend, places, shard_list
from vlm_dense.errors import DataError
from vlm_dense.registry import DATASETS


@DATASETS.register_module()
class WebDataset(BaseDataset):
    """Images of shards, with their masks or labels, as ``vlm-dense label --format tar --with-images`` writes them.

    The files of an image share a key: ``KEY.jpg``, ``KEY.mask.png`` for segmentation, ``KEY.cls`` with the number of
    the class for classification. Headers are read once; the files then have paths that ``LoadImage`` and
    ``LoadAnnotations`` read like others, so every pipeline, sampler and wrapper takes the data set. With
    ``sampler=dict(type='vlm_dense.ShardSampler')`` files are read nearly in the order of the shards.

    Args:
        data_root: Of ``shards`` and ``masks``.
        shards: Uncompressed shards: a path or URL, a range ``shard-{000..127}.tar`` or a glob, or several of them.
        masks: Shards with the masks, if they are not beside the images: those of ``label`` without ``--with-images``.
        mask, label: Extensions of masks and labels.
        metainfo: ``classes``, the names in label order.
        **kwargs: As in :class:`mmengine.dataset.BaseDataset`.

    Attributes:
        shard_sizes: Number of images of each shard, in order.

    Raises:
        DataError: no shard, one that is no whole tar, no image, or an image without mask where others have one.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        masks: str | Sequence[str] | None = None,
        mask: str = 'mask.png',
        label: str = 'cls',
        data_root: str = '',
        metainfo: dict | None = None,
        **kwargs,
    ):
        self.shards, self.masks = shards, masks
        self.mask, self.label = mask, label
        self.shard_sizes: list[int] = []
        super().__init__(data_root=data_root, metainfo=metainfo, **kwargs)

    @staticmethod
    def expected_files(dataset: dict) -> list[tuple[str, str, str]]:
        """(path, what lies there, config key) of what a config of this data set reads: shards are named when read."""
        return [(dataset['data_root'], '*.tar', 'data_root')] if dataset.get('data_root') else []

    def _listed(self, sources: str | Sequence[str]) -> list[str]:
        every = [sources] if isinstance(sources, str) else list(sources)
        join = lambda one: one if '://' in one else os.path.join(self.data_root or '', one)  # noqa: E731
        return [path for one in every for path in shard_list(join(one))]

    def load_data_list(self) -> list[dict]:
        """One dict an image: ``img_path``, and ``seg_map_path`` or ``gt_label`` if the shards have them."""
        apart = {}
        for path in self._listed(self.masks) if self.masks else []:
            apart |= {key: place for key, extension, place in places(path) if extension == self.mask}
        infos, self.shard_sizes = [], []
        for path in self._listed(self.shards):
            found: dict[str, dict] = {}
            for key, extension, place in places(path):
                self._add(found.setdefault(key, {}), extension, place)
            images = {key: info for key, info in found.items() if 'img_path' in info}
            for key, info in images.items():
                if key in apart:
                    info['seg_map_path'] = apart[key]
            self.shard_sizes.append(len(images))
            infos += images.values()
        if not infos:
            raise DataError(f'{self.shards} holds no image; looked for files ending in {", ".join(IMG_EXTENSIONS)}.')
        for name, what in (('seg_map_path', f'.{self.mask}'), ('gt_label', f'.{self.label}')):
            lacking = [info for info in infos if name not in info]
            if 0 < len(lacking) < len(infos):
                raise DataError(
                    f'{len(lacking)} of {len(infos)} images have no file with {what}, as {lacking[0]["img_path"]}. '
                    'Write them, or leave these images out.'
                )
        return infos

    def _add(self, info: dict, extension: str, place: str) -> None:
        if extension == self.mask:
            info['seg_map_path'] = place
        elif extension == self.label:
            info['gt_label'] = int(TarBackend().get_text(place))
        elif f'.{extension.lower()}' in IMG_EXTENSIONS:
            info |= dict(img_path=place, label_map=None, reduce_zero_label=False, seg_fields=[])
