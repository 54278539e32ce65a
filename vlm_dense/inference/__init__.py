"""Inferencers: image in, labels or boxes and image out."""

from importlib.util import find_spec

from vlm_dense.libraries import import_quietly, name_packages

import_quietly()
name_packages()  # SegInferencer.list_models('vlm_dense')

from vlm_dense.export.write import export_model  # noqa: E402
from vlm_dense.inference.class_inferencer import ClassInferencer, classifier_config  # noqa: E402
from vlm_dense.inference.export import export_file  # noqa: E402
from vlm_dense.inference.exported_classifier import ExportedClassifier  # noqa: E402
from vlm_dense.inference.maskclip_models import maskclip_config, method_config  # noqa: E402
from vlm_dense.inference.raster import segment_raster  # noqa: E402
from vlm_dense.inference.seg_inferencer import SegInferencer  # noqa: E402
from vlm_dense.inference.video import detect_video, segment_video  # noqa: E402

__all__ = ['ClassInferencer', 'ExportedClassifier', 'SegInferencer', 'classifier_config', 'export_file']
__all__ += ['detect_video', 'export_model', 'maskclip_config', 'method_config', 'segment_raster', 'segment_video']

if find_spec('mmdet'):
    from vlm_dense.inference.det_inferencer import DetInferencer

    __all__ += ['DetInferencer']
