"""Features of a frozen image tower instead of images, computed once and kept on disk."""

from __future__ import annotations

import io
import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import all_gather_object, barrier, get_dist_info
from mmengine.logging import print_log
from mmengine.registry import DATASETS as ROOT_DATASETS
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlm_dense.classification.structures import ClsDataSample
from vlm_dense.clip.digest import as_json, value_digest, weights_digest
from vlm_dense.contract.roles import Head, ImagePrompt
from vlm_dense.engine.generators import generators_kept, seed_generators
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import DATASETS

_CHECKED = 4  # features of each set that are computed again in every run, to see that they still come out
_TOLERANCE = 1e-3


@DATASETS.register_module()
class FeatureDataset:
    """Features of another data set's images by the frozen image tower, instead of the images.

    ``vlm_dense.PrepareHook``, which has to be among the hooks, shows the model to the data set before it is used. Then
    features that are not yet in ``cache_dir`` are computed and written, by several processes a share each; of those
    that are, some are computed again, and if one differs (a transform or a library has changed) all are. Files that
    were damaged or changed are noticed and left out. A feature is found again only for the same

    - weights, structure and settings of the image tower, and features that the head reads,
    - normalisation and pipeline,
    - data info: file path, label and whatever the pipeline is given,
    - file: size, times and place on the disk, for every path in the data info,
    - copy.

    So 16 shots find what 4 shots wrote, other seeds add what is missing, and several processes may share the folder.

    Random transforms are drawn ``copies`` times for each image, from seeds that depend on the image and the copy only.
    Epoch e sees copy ``e % copies``, and Tip-Adapter's passes are epochs; then training sees so many augmentations of
    an image and not a new one in each epoch. Data workers see the epoch too, also those that live through several. In a
    loop of iterations an epoch is one pass of the sampler through the data, as ``vlm_dense.SeededSampler`` counts.

    Samples are ``inputs=dict(global_=(D,), ...)`` and ``data_samples`` as the pipeline made them.

    Args:
        dataset: The images.
        copies: Augmented copies of each image.
        cache_dir: Where features are kept; may be deleted at any time.
        batch_size, num_workers: Of the loader that reads images.

    Raises:
        ConfigError: an image tower that is trained or prompted, or samples that are read before the model was shown.
        DataError: the data set is empty.
    """

    def __init__(
        self,
        dataset: dict,
        copies: int = 1,
        cache_dir: str = 'work_dirs/features',
        batch_size: int = 64,
        num_workers: int = 0,
    ):
        if copies < 1:
            raise ConfigError(f'FeatureDataset: copies must be at least 1, found {copies}.')
        self.dataset = ROOT_DATASETS.build(dataset)
        self.copies, self.cache_dir = copies, cache_dir
        self.batch_size, self.num_workers = batch_size, num_workers
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # data workers read it
        self._pipelines = as_json(_find(dataset, 'pipeline') or dataset)
        self._key: str | None = None
        self._rows: list[tuple[dict[str, Tensor], ClsDataSample]] = []

    def full_init(self) -> None:
        """As in mmengine."""
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()

    @property
    def metainfo(self) -> dict:
        """Metainfo of the images."""
        return self.dataset.metainfo

    def __len__(self) -> int:
        return len(self.dataset)

    def get_data_info(self, index: int) -> dict:
        """Information on an image."""
        return self.dataset.get_data_info(index)

    @property
    def epoch(self) -> int:
        """The epoch that was last set."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the copy, in this process and in its data workers."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict:
        return self.at_epoch(index, self.epoch)

    def at_epoch(self, index: int, epoch: int) -> dict:
        """The sample that an epoch sees."""
        if not self._rows:
            raise ConfigError(
                'FeatureDataset has not seen the model. Add dict(type="vlm_dense.PrepareHook") to custom_hooks.'
            )
        features, sample = self._rows[epoch % self.copies * len(self) + index]
        return dict(inputs=features, data_samples=sample.clone())

    # --- what is kept ---------------------------------------------------------------------------------------------

    def prepare(self, model: nn.Module) -> None:
        """Compute or read the features of all copies of all images.

        Args:
            model: A classifier with a frozen image tower, in eval mode.
        """
        trains = any(p.requires_grad for p in model.backbone.parameters())
        if trains or model.role(ImagePrompt) is not None:
            raise ConfigError(
                'FeatureDataset keeps what a frozen image tower sees, and this model '
                f'{"trains" if trains else "prompts"} it. Give the images themselves.'
            )
        if not len(self):
            raise DataError('FeatureDataset: there is no image in the data set. Check its split and filters.')
        names = sorted({'global', *model.role(Head).features})
        tower = [weights_digest(model.backbone), weights_digest(model.data_preprocessor), names, self._pipelines]
        key = value_digest(tower)
        if key == self._key:
            return
        wanted = [(index, copy) for copy in range(self.copies) for index in range(len(self))]
        infos = [self._identity(index) for index in range(len(self))]
        wanted = {(index, copy): value_digest([infos[index], copy]) for index, copy in wanted}
        rows = self._complete(model, names, wanted, FeatureStore(Path(self.cache_dir, key)))
        self._key, self._rows = key, [rows[digest] for digest in wanted.values()]

    def _info(self, index: int) -> dict:
        info = dict(self.dataset.get_data_info(index))
        if 'sample_idx' not in self._pipelines:
            info.pop('sample_idx', None)  # mmengine's count, which depends on what else was chosen
        return info

    def _seed(self, index: int, copy: int) -> int:
        """Seed of the augmentation of a copy: of the image alone, not of the file, which differs between disks."""
        return int(value_digest([[as_json(self._info(index)), []], copy])[:15], 16)

    def _identity(self, index: int) -> list:
        info = self._info(index)
        paths = sorted({v for v in info.values() if isinstance(v, str) and os.path.isfile(v)})
        stats = [os.stat(path) for path in paths]
        return [as_json(info), [(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev) for s in stats]]

    def _complete(self, model, names, wanted: dict[tuple[int, int], str], store: FeatureStore) -> dict:
        """Rows of all ``wanted``, by digest; all processes call it."""
        rank, processes = get_dist_info()
        rows = store.read(set(wanted.values()))
        changed = self._changed(model, names, wanted, rows)
        if any(all_gather_object(changed)):
            rows = {}
            if rank == 0:
                print_log(
                    f'FeatureDataset: features in {store.folder} do not come out again; all are computed again.',
                    logger='current',
                    level=logging.WARNING,
                )
                store.clear()
            barrier()
        missing = [place for place, digest in wanted.items() if digest not in rows]
        together = list(dict.fromkeys(place for part in all_gather_object(missing) for place in part))
        share = {place: wanted[place] for place in together[rank::processes]}
        rows |= self._computed(model, names, share, store)
        barrier()
        if processes > 1:
            rows |= store.read({wanted[place] for place in together} - rows.keys())
        absent = {place: digest for place, digest in wanted.items() if digest not in rows}
        rows |= self._computed(model, names, absent, store)  # of a process with a disk of its own
        print_log(
            f'FeatureDataset: computed {len(together)} of {len(wanted)} features; the others come from {store.folder}.',
            logger='current',
        )
        return rows

    def _changed(self, model, names, wanted: Mapping[tuple[int, int], str], rows: dict) -> bool:
        """Whether one of a few rows that are there comes out otherwise now."""
        found = [place for place, digest in wanted.items() if digest in rows]
        again = {place: wanted[place] for place in found[:: max(1, len(found) // _CHECKED)][:_CHECKED]}
        computed = self._compute(model, names, again)
        return any([not _same(rows[digest], row) for digest, row in zip(again.values(), computed, strict=True)])

    def _computed(self, model, names, wanted: Mapping[tuple[int, int], str], store: FeatureStore) -> dict:
        """Compute rows and write them."""
        rows = {}
        for part in map(dict, _parts(list(wanted.items()), 64 * self.batch_size)):
            computed = dict(zip(part.values(), self._compute(model, names, part), strict=True))
            store.write(computed)
            rows |= computed
        return rows

    @torch.no_grad()
    def _compute(self, model, names: Sequence[str], wanted: Mapping[tuple[int, int], str]) -> Iterator:
        images = _Seeded(self.dataset, [(index, self._seed(index, copy)) for index, copy in wanted])
        loader = DataLoader(images, self.batch_size, num_workers=self.num_workers, collate_fn=pseudo_collate)
        with generators_kept():
            for batch in loader:
                batch = model.data_preprocessor(batch)
                features = vars(model.backbone.encode(batch['inputs'], names))
                features = {name: value.float().cpu() for name, value in features.items() if value is not None}
                for row, sample in enumerate(batch['data_samples']):
                    yield {name: value[row].clone() for name, value in features.items()}, sample.cpu()


class FeatureStore:
    """Features on disk: a folder of files, each written whole, never changed, and named by a digest of its content.

    Args:
        folder: Folder of the store.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, digests: set[str]) -> dict[str, tuple[dict[str, Tensor], ClsDataSample]]:
        """The stored rows, by digest; damaged or changed files are removed."""
        rows = {}
        for path in sorted(self.folder.glob('*.pt')):
            try:
                data = path.read_bytes()
                if value_digest(data) != path.stem:
                    raise ValueError('its content is not what was written')
                content = torch.load(io.BytesIO(data), weights_only=True)
                index = {digest: row for row, digest in enumerate(content['digests']) if digest in digests}
                for digest, row in index.items():
                    fields, meta = content['samples'][row]
                    sample = ClsDataSample(metainfo=meta, **fields)
                    rows[digest] = {name: value[row] for name, value in content['features'].items()}, sample
            except Exception as error:  # cut short, changed, or removed by another process: computed again
                print_log(f'FeatureDataset: {path} is left out: {error}', logger='current', level=logging.WARNING)
                path.unlink(missing_ok=True)
        return rows

    def write(self, rows: Mapping[str, tuple[dict[str, Tensor], ClsDataSample]]) -> None:
        """Add rows."""
        self.folder.mkdir(parents=True, exist_ok=True)
        features = [row for row, _ in rows.values()]
        content = dict(
            digests=list(rows),
            features={name: torch.stack([row[name] for row in features]) for name in features[0]},
            samples=[(dict(sample.items()), dict(sample.metainfo_items())) for _, sample in rows.values()],
        )
        buffer = io.BytesIO()
        torch.save(content, buffer)
        temporary = self.folder / f'{uuid.uuid4().hex}.tmp'  # several processes may write the same
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(self.folder / f'{value_digest(buffer.getvalue())}.pt')

    def clear(self) -> None:
        """Remove all rows."""
        for path in self.folder.glob('*.pt'):
            path.unlink(missing_ok=True)


class _Seeded:
    """Images, each made after the generators were seeded for it alone."""

    def __init__(self, dataset, places: Sequence[tuple[int, int]]):
        self.dataset, self.places = dataset, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int):
        index, seed = self.places[number]
        seed_generators(seed)
        return self.dataset[index]


def _find(config, key: str) -> list:
    """Values of a key anywhere in a config."""
    if isinstance(config, Mapping):
        return [v for k, v in config.items() if k == key] + [x for v in config.values() for x in _find(v, key)]
    if isinstance(config, (list, tuple)):
        return [x for v in config for x in _find(v, key)]
    return []


def _same(kept, computed) -> bool:
    """Features and labels of a row, up to rounding."""
    (a, sample_a), (b, sample_b) = kept, computed
    labels = all(torch.equal(torch.as_tensor(v), torch.as_tensor(sample_b.get(k))) for k, v in sample_a.items())
    return labels and all(
        a[name].shape == b[name].shape and (a[name] - b[name]).abs().max() <= _TOLERANCE * b[name].abs().max()
        for name in b
    )


def _parts(items: list, size: int) -> Iterator[list]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
