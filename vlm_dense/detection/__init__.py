"""Detection beyond the methods: COCO data sets and their metric. Importing this module registers them."""

from vlm_dense.libraries import quietly

with quietly():
    import mmdet.datasets
    import mmdet.evaluation  # noqa: F401

from vlm_dense.detection.coco import CocoDataset, CocoFileDataset, CocoMetric  # noqa: E402

__all__ = ['CocoDataset', 'CocoFileDataset', 'CocoMetric']
