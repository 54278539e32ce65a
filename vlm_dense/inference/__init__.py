"""Inferencers: image in, labels or boxes and image out. Each is imported when it is asked for."""

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vlm_dense import light
from vlm_dense.libraries import import_quietly, name_packages

import_quietly()
name_packages()  # SegInferencer.list_models('vlm_dense')

if TYPE_CHECKING:
    from vlm_dense.export.write import export_model
    from vlm_dense.inference.class_inferencer import ClassInferencer, classifier_config
    from vlm_dense.inference.det_inferencer import DetInferencer
    from vlm_dense.inference.export import export_file
    from vlm_dense.inference.exported_classifier import ExportedClassifier
    from vlm_dense.inference.maskclip_models import maskclip_config, method_config
    from vlm_dense.inference.raster import segment_raster
    from vlm_dense.inference.seg_inferencer import SegInferencer
    from vlm_dense.inference.video import detect_video, segment_video

__all__ = ['ClassInferencer', 'ExportedClassifier', 'SegInferencer', 'classifier_config', 'export_file']
__all__ += ['detect_video', 'export_model', 'maskclip_config', 'method_config', 'segment_raster', 'segment_video']

_HOMES = dict(
    ClassInferencer='vlm_dense.inference.class_inferencer',
    ExportedClassifier='vlm_dense.inference.exported_classifier',
    SegInferencer='vlm_dense.inference.seg_inferencer',
    classifier_config='vlm_dense.inference.class_inferencer',
    detect_video='vlm_dense.inference.video',
    export_file='vlm_dense.inference.export',
    export_model='vlm_dense.export.write',
    maskclip_config='vlm_dense.inference.maskclip_models',
    method_config='vlm_dense.inference.maskclip_models',
    segment_raster='vlm_dense.inference.raster',
    segment_video='vlm_dense.inference.video',
)

if find_spec('mmdet'):
    _HOMES['DetInferencer'] = 'vlm_dense.inference.det_inferencer'
    __all__ += ['DetInferencer']


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    with light.passing_over():
        found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return found


def __dir__():
    return sorted({*globals(), *_HOMES})
