"""A folder of images without labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from vlm_dense.errors import DataError
from vlm_dense.registry import DATASETS


@DATASETS.register_module()
class UnlabelledDataset(BaseDataset):
    """All images in a folder and the folders inside it, in the order of their paths.

    A data info is ``dict(img_path)``.

    Args:
        data_root: The folder.
        classes: What the images may show, for those who label them.
        **kwargs: As in :class:`mmengine.dataset.BaseDataset`: ``pipeline``, ``lazy_init``, ...

    Raises:
        DataError: there is no image.
    """

    def __init__(
        self, data_root: str, classes: Sequence[str] | None = None, metainfo: dict | None = None, **kwargs: Any
    ):
        metainfo = dict(metainfo or {}, **({} if classes is None else dict(classes=tuple(classes))))
        super().__init__(metainfo=metainfo, data_root=data_root, **kwargs)

    @staticmethod
    def expected_files(dataset: dict) -> list[tuple[str, str, str]]:
        """(path, what lies there, config key) of what a config of this data set reads, for ``check_data``."""
        return [(dataset['data_root'], '', 'data_root')]

    def load_data_list(self) -> list[dict]:
        """Data infos of the images."""
        found = [
            os.path.join(folder, name)
            for folder, _, files in os.walk(self.data_root)
            for name in files
            if Path(name).suffix.lower() in IMG_EXTENSIONS and not name.startswith('.')
        ]
        if not found:
            raise DataError(
                f'There is no image in {self.data_root}: expected files ending in {", ".join(IMG_EXTENSIONS)}. Say '
                'where the images are with data_root.'
            )
        return [dict(img_path=path) for path in sorted(found)]
