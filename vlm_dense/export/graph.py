"""The part of a model that goes into an exported file: the network with its prompts and fixed class embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmseg.models.utils.wrappers import Upsample
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlm_dense.classification.classifier import CLIPClassifier
from vlm_dense.contract.prompt import PrecomputedEmbeddings
from vlm_dense.contract.roles import Head, ImagePrompt
from vlm_dense.engine.models import view_of
from vlm_dense.errors import ConfigError
from vlm_dense.segmentation.inference import BatchedInference

_KINDS = 'segmentors of vlm_dense, single-stage detectors of mmdet, and vlm_dense.CLIPClassifier'


class Graph(nn.Module):
    """Normalised images (B, 3, H, W) to the outputs of a network, a tuple of tensors.

    Args:
        model: What is exported; it is not changed, its weights are shared.

    Attributes:
        task: ``'segmentation'``, ``'classification'`` or ``'detection'``.
        names: Of the outputs.
    """

    task: str
    names: tuple[str, ...]

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = view_of(model).eval()
        for part in list(self.model.modules()):
            if part._modules.get('text_encoder') is not None:
                give_text(part)
        _open_sizes(self.model)

    @torch.no_grad()
    def drop_unused(self, images: Tensor) -> None:
        """Take off the weights and buffers that ``forward`` does not read: text towers, teachers, auxiliary heads."""
        with _Used() as used:
            self(images)
        for module in self.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and id(tensor) not in used.found:
                        tensors[name] = None


class SegmentorGraph(Graph):
    """Maps (B, K, h, w) of windows as :class:`BatchedInference` enlarges them."""

    task, names = 'segmentation', ('maps',)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The maps."""
        return (self.model.window_map(images),)


class ClassifierGraph(Graph):
    """Logits (B, K) of images."""

    task, names = 'classification', ('logits',)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The logits."""
        return (self.model.scores(images),)


class DetectorGraph(Graph):
    """Outputs of a single-stage head before boxes are decoded: of each kind the maps of all levels."""

    task = 'detection'

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The maps, those of one kind behind each other."""
        kinds = self.model.bbox_head(self.model.extract_feat(images))
        self.levels = len(kinds[0])
        self.names = tuple(f'kind{i}_level{level}' for i, maps in enumerate(kinds) for level in range(len(maps)))
        return tuple(one for maps in kinds for one in maps)


def graph_of(model: nn.Module) -> Graph:
    """The graph of a model.

    Raises:
        ConfigError: a model that cannot be exported; says why and what can be done.
    """
    kind = type(model).__name__
    if isinstance(model, CLIPClassifier):
        if model.test_time is not None:
            raise ConfigError(
                f'{kind}: {type(model.test_time).__name__} adapts the model to each image, which a fixed graph '
                'cannot. Export the config without test_time.'
            )
        return ClassifierGraph(model)
    if isinstance(model, BatchedInference):
        if not model.by_windows:
            raise ConfigError(
                f'{kind} compares the patches of all windows of an image with each other, by sparse graphs that ONNX '
                'and torch.export do not have. Export another method, as naclip or maskclip.'
            )
        return SegmentorGraph(model)
    if _is_single_stage(model):
        return DetectorGraph(model)
    if hasattr(model, 'roi_head'):
        raise ConfigError(
            f'{kind} cuts regions out of its maps that differ from image to image, so it has no fixed graph. '
            'Export a single-stage detector, as denseclip_retinanet_r50_coco.'
        )
    raise ConfigError(f'{kind} cannot be exported; what can: {_KINDS}.')


def _is_single_stage(model: nn.Module) -> bool:
    try:
        from mmdet.models.detectors import SingleStageDetector
    except ImportError:
        return False
    return isinstance(model, SingleStageDetector)


@torch.no_grad()
def give_text(part: nn.Module) -> None:
    """Put the class embeddings of a model, as they are, where its text tower was.

    Args:
        part: With ``text_side``.

    Raises:
        ConfigError: embeddings that depend on the image.
    """
    prompt, tower = part.text_prompt, part.text_encoder
    if prompt.image_conditioned:
        raise ConfigError(
            f'{type(prompt).__name__} makes class embeddings of each image, so the text tower would have to run for '
            'each image, and an exported file has none. Export a prompt that does not depend on the image, as '
            'CoOpPrompt, KgCoOpPrompt or ZeroShotPrompt, or run this one with PyTorch.'
        )
    embeddings = part.text_side.class_embeddings()
    if isinstance(prompt, ImagePrompt) and part.image_prompt is None:
        part.image_prompt = prompt
    if isinstance(prompt, Head):
        part.head = prompt
    part.text_prompt = PrecomputedEmbeddings(prompt.class_names, embeddings, source=prompt).eval()
    part.text_encoder = _TowerOfEmbeddings(tower).eval()


class _TowerOfEmbeddings(nn.Module):
    """Stand-in for the text tower of a model with given class embeddings: temperature, bias, and D."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        for name in ('logit_scale', 'logit_bias'):
            value = getattr(tower, name)
            self.register_buffer(name, value if value is None else value.detach().clone())
        self.embed_dim = tower.embed_dim


class _Enlarge(nn.Module):
    """mmseg's ``Upsample`` by a whole factor, without the detour over floats that fixes sizes in a traced graph."""

    def __init__(self, factor: int, mode: str, align_corners: bool | None):
        super().__init__()
        self.factor, self.mode, self.align_corners = factor, mode, align_corners

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2] * self.factor, x.shape[3] * self.factor
        return F.interpolate(x, size, mode=self.mode, align_corners=self.align_corners)


def _open_sizes(model: nn.Module) -> None:
    for module in model.modules():
        for name, child in module.named_children():
            factor = getattr(child, 'scale_factor', None)
            if isinstance(child, Upsample) and not child.size and isinstance(factor, float) and factor.is_integer():
                setattr(module, name, _Enlarge(int(factor), child.mode, child.align_corners))


class _Used(TorchDispatchMode):
    """Notes which tensors the operators read."""

    def __init__(self):
        super().__init__()
        self.found: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found |= {id(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        return func(*args, **(kwargs or {}))
