"""Models through torch.hub: ``torch.hub.load('vlm_dense', 'model', 'denseclip_shapes', source='local')`` in a clone.

Each entry point is a function of the package under its own name and with its own arguments.
"""

dependencies = ['torch', 'open_clip', 'mmengine', 'mmcv', 'mmseg']


def model(name, *args, **kwargs):
    """A model by its name, in eval mode; see :func:`vlm_dense.get_model`."""
    from vlm_dense import get_model

    return get_model(name, *args, **kwargs)


def segmentor(*args, **kwargs):
    """Images in, label maps out, by any class names; see :class:`vlm_dense.inference.SegInferencer`."""
    from vlm_dense.inference import SegInferencer

    return SegInferencer(*args, **kwargs)


def detector(*args, **kwargs):
    """Images in, boxes and masks out; see :class:`vlm_dense.inference.DetInferencer`."""
    from vlm_dense.inference import DetInferencer

    return DetInferencer(*args, **kwargs)


def classifier(*args, **kwargs):
    """Images in, names of classes out; see :class:`vlm_dense.inference.ClassInferencer`."""
    from vlm_dense.inference import ClassInferencer

    return ClassInferencer(*args, **kwargs)


def clip(arch, *args, **kwargs):
    """A CLIP of open_clip with its weights; see :func:`vlm_dense.clip.load_clip`."""
    from vlm_dense.clip import load_clip

    return load_clip(arch, *args, **kwargs)
