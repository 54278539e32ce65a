"""Detection beyond the methods: COCO data sets and their metric. Importing this module registers them."""

from vlm_dense.detection.coco import CocoDataset, CocoFileDataset, CocoMetric

__all__ = ['CocoDataset', 'CocoFileDataset', 'CocoMetric']
