"""What the cases of CLIPSelf and DeCLIP have in common: towers on drawn weights, samples, and the EVA tower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from dense_case import arch_of, image_of
from mmengine.structures import BaseDataElement
from official import Case, array, fill
from timm.models import _registry
from torch import Tensor

from vlm_dense.clip.eva_release import convert_eva
from vlm_dense.registry import MODELS


def build(config: dict, **options):
    """The method on the weights of the official run."""
    backbone = dict(type='vlm_dense.CLIPViT', arch=arch_of(config), pos_mode='bicubic', **options.pop('backbone', {}))
    model = MODELS.build(dict(backbone=backbone, trained_groups=config['unlocked_groups'], **options))
    for tower in (model.backbone, model.teacher):
        tower.load_state_dict({key: fill(f'visual.{key}', value.shape) for key, value in tower.state_dict().items()})
    return model


def samples_of(case: Case) -> tuple[Tensor, list[BaseDataElement]]:
    """Images, and the valid boxes of each with their crops."""
    config, images = case.config, image_of(case.config['image'])
    size = config['vision']['image_size']
    crops = array(f'{config["seed"]}/crops', (config['batch'], config['n'], 3, size, size))
    samples = []
    for boxes, own in zip(torch.from_numpy(case['normed_boxes']), crops, strict=True):
        valid = boxes[:, 4] > 0.5
        sides = boxes.new_tensor([images.shape[3], images.shape[2]] * 2)
        samples.append(BaseDataElement(boxes=boxes[valid, :4] * sides, crops=own[valid]))
    assert [len(sample.boxes) for sample in samples] == config['n_valid']
    return images, samples


def check_trained(case: Case, tower: torch.nn.Module) -> None:
    """Names of the trained parameters."""
    found = {name for name, parameter in tower.named_parameters() if parameter.requires_grad}
    assert found == set(case['trained'].tolist())


def check_gradients(case: Case, tower: torch.nn.Module) -> None:
    """grad/*: of matrices with more than 64 rows every eighth row and column."""
    for key in case.keys('grad/'):
        gradient = tower.get_parameter(key.removeprefix('visual.')).grad
        many = gradient.ndim == 2 and len(gradient) > 64
        case.check_grad(f'grad/{key}', gradient[::8, ::8] if many else gradient)


@contextmanager
def eva_arch(eva_config: dict) -> Iterator[dict]:
    """open_clip's config of the official EVA tower, as long as the context lasts."""
    names = ('img_size', 'patch_size', 'embed_dim', 'depth', 'num_heads', 'mlp_ratio')
    side = eva_config['pt_hw_seq_len']
    cut = {key: eva_config[key] for key in names} | dict(ref_feat_shape=(side, side))
    name = 'eva02_base_patch16_clip_224'
    entry = _registry._model_entrypoints[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_registry._model_entrypoints, name, lambda **kwargs: entry(**{**cut, **kwargs}))
        vision = dict(image_size=eva_config['img_size'], timm_model_name=name, timm_pool='token', timm_proj=None)
        text = dict(context_length=77, vocab_size=64, width=64, heads=1, layers=1)
        yield dict(embed_dim=eva_config['num_classes'], vision_cfg=vision, text_cfg=text, custom_text=True)


def eva_tower(eva_config: dict, **options):
    """The official EVA tower on its drawn weights, in its own names, which are converted."""
    with eva_arch(eva_config) as arch:
        tower = MODELS.build(dict(type='vlm_dense.CLIPTimmViT', arch=arch, head=True, pos_mode='bicubic', **options))
    shapes = {key: value.shape for key, value in tower.state_dict().items()}
    weights = {}
    for key in eva_config['keys']:
        ours = next(iter(convert_eva({f'visual.{key}': torch.empty(0)}))).removeprefix('visual.')
        weights[f'visual.{key}'] = fill(eva_config['prefix'] + key, shapes[ours])
    tower.load_state_dict({key.removeprefix('visual.'): value for key, value in convert_eva(weights).items()})
    return tower.eval()
