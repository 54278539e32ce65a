"""Trident equals the official code: three readings of an image, spliced windows, SAM's correlation, the refinement."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from dense_case import arch_of, names_of, pair, steps_of
from mmseg.structures import SegDataSample
from official import Case, array, fill
from test_proxyclip import load_proxy, proxy_of
from torch.nn import functional as F

from vlm_dense.methods.dense.trident import SAMRefinement, Trident
from vlm_dense.registry import MODELS

MEAN, STD = (122.771, 116.746, 104.094), (68.501, 66.632, 70.323)


def sam_of(sam: dict) -> dict:
    """Our config of the official image encoder, without its weights."""
    keys = 'img_size', 'patch_size', 'embed_dim', 'depth', 'num_heads', 'mlp_ratio', 'use_rel_pos', 'window_size'
    options = {key: sam[key] for key in keys}
    return dict(
        type='vlm_dense.SAMEncoder',
        model='samvit_base_patch16',
        global_attn_indexes=sam['global_attn_indexes'],
        neck_chans=sam['out_chans'],
        **options,
    )


def load_sam(model: torch.nn.Module, sam: dict) -> None:
    """Give SAM the weights of the official run; their names differ in the MLP."""
    weights = {}
    for key, value in model.state_dict().items():
        source = key.replace('mlp.fc', 'mlp.lin')
        weights[key] = fill(sam['prefix'] + source, tuple(value.shape))
    weights.update({key: array(*entry[1:]) for key, entry in sam['arrays'].items()})
    model.load_state_dict(weights)


def build(config: dict, **more) -> Trident:
    """The model on the weights of the official run."""
    arch, options = arch_of(config), config['options']
    attention = dict(
        type='vlm_dense.TridentAttention', proxy=proxy_of(config['dino']), beta=options['beta'], gamma=options['gamma']
    )
    tower = dict(type='vlm_dense.CLIPViT', arch=arch, head=True, pos_mode='dino', remainder='drop')
    model = MODELS.build(
        dict(
            type='vlm_dense.Trident',
            class_names=names_of(config),
            backbone=tower | dict(dense_attention=attention),
            sam=sam_of(config['sam']),
            text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
            text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=config['templates']),
            postprocess=steps_of(options),
            cos_fac=options['cos_fac'],
            refine_neg_cos=options['refine_neg_cos'],
            test_cfg=dict(mode='slide', crop_size=pair(options['slide_crop']), stride=pair(options['slide_stride'])),
            **more,
        )
    )
    weights = {}
    for key, value in model.state_dict().items():
        if 'dense_attention' in key or key.startswith('sam.'):
            weights[key] = value
            continue
        source = key.replace('backbone.', 'visual.').removeprefix('decode_head.text_encoder.')
        weights[key] = fill(source, tuple(value.shape))
    model.load_state_dict(weights)
    load_proxy(model.backbone.dense_attention.proxy.model, config['dino'])
    load_sam(model.sam.model, config['sam'])
    return model.eval()


def images_of(config: dict, folder) -> tuple[torch.Tensor, dict]:
    """Input of the network (1, 3, H, W) and the metainfo with the path of the image."""
    entry = config['image']
    base, noise = array(*entry['base'][1:]), array(*entry['noise'][1:])
    base = base.repeat_interleave(entry['block'], 1).repeat_interleave(entry['block'], 2)
    raw = (base[:, : noise.shape[1], : noise.shape[2]] + noise).round().clamp(0, 255)
    path = str(folder / 'image.png')
    cv2.imwrite(path, raw.permute(1, 2, 0).numpy().astype(np.uint8)[:, :, ::-1])
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    size = tuple(config['img_shape'])
    x = (F.interpolate(raw[None], size, mode='bilinear', align_corners=False)[0] - mean) / std
    return x[None], dict(img_path=path, img_shape=size, ori_shape=tuple(raw.shape[1:]))


def maps_of(model: Trident, image, meta) -> torch.Tensor:
    [(_, maps)] = model.window_maps(list(image), metas=[meta])
    return maps.windows[0].values


def at_original_size(maps: torch.Tensor, meta: dict) -> torch.Tensor:
    return F.interpolate(maps[None], meta['ori_shape'], mode='bilinear', align_corners=False)[0]


class Drawn:
    """Stands for SAM's decoder: answers of the case, and the prompts that it was given."""

    def __init__(self, entry: dict):
        self.entry, self.seen = entry, []

    def __call__(self, pixels):
        def decode(prompts):
            i, n = len(self.seen), len(prompts.points)
            self.seen.append(prompts)
            low = array(f'{self.entry["prefix"]}/low/{i}', (n, 1, 16, 16), 4.0, self.entry['low_shift'])
            quality = array(f'{self.entry["prefix"]}/iou/{i}', (n, 1), 0.1, self.entry['iou_shift'])
            return F.interpolate(low, (256, 256), mode='bilinear', align_corners=False), quality

        return decode


def check_refinement(case: Case) -> None:
    entry = case.config['refine']
    maps, sub, size, count = entry['maps'], entry['sub'], tuple(entry['size']), entry['classes']
    coarse = (count, *(-(-side // maps['block']) for side in size))
    drawn = array(maps['base'], coarse, maps['scale'], 0.0)
    scores = F.interpolate(drawn[None], size, mode='bilinear', align_corners=False)[0].softmax(dim=0)
    decoder = Drawn(entry)
    refine = SAMRefinement(decoder, **entry['options'])
    found, labels = refine(scores, scores.argmax(dim=0), torch.zeros(3, 1024, 1024), size)
    kept = []
    for i, prompts in enumerate(decoder.seen):
        case.check(f'refine/points_{i}', prompts.points)
        case.check(f'refine/boxes_{i}', prompts.boxes)
        case.check(f'refine/mask_input_{i}', prompts.mask[::7, ::7])
        quality = array(f'{entry["prefix"]}/iou/{i}', (len(prompts.points), 1), 0.1, entry['iou_shift'])
        case.check(f'refine/iou_{i}', quality)
        kept.append(2 * prompts.small[quality[:, 0] > entry['options']['sam_iou_thresh']])
    case.check('refine/boxes', torch.cat(kept))
    case.check('refine/logits', found[:, ::sub, ::sub])
    case.check('refine/pred', labels[::sub, ::sub])


@torch.no_grad()
def test_every_official_number_is_reproduced(trident_case, tmp_path):
    case = Case(trident_case)
    config, sub = case.config, case.config['sub']
    model = build(config)
    image, meta = images_of(config, tmp_path)
    case.check('text_embeddings', F.normalize(model.decode_head.embed_classes(), dim=-1))
    raw = model.raw(image[0], meta)
    case.check('mid/sam_input', model.sam.prepare(raw)[0][:, ::32, ::32])
    correlation = model.sam(raw)
    values = correlation.values.unflatten(1, correlation.grid)
    case.check('mid/sam_v', values[:, :, ::2])
    case.check('mid/sam_attn', correlation.weights[:, ::5, ::3])
    case.check('mid/threshold', model.threshold(correlation))
    case.check('mid/weights', model.exchange(correlation)[::5, ::3])
    assert case['mid/safe'].shape == correlation.grid

    seen, part = [], model.backbone.dense_attention
    hook = part.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    canvas = model.canvas(image[0])
    hook.remove()
    last = seen[0]
    normed = last.blocks[-1].ln_1(last.tokens[:, last.patches])
    case.check('mid/last_in', normed.transpose(0, 1)[:, ::5, ::16])
    case.check('mid/proxy_out', part(last).features.transpose(0, 1)[:, ::5, ::16])
    case.check('mid/guided', model.correlated(canvas, correlation)[:, ::4])
    maps = maps_of(model, image, meta)
    case.check('mid/grid_logits', maps)
    case.check('logits', at_original_size(maps, meta)[:, ::sub, ::sub])
    [sample] = model.predict(image, [SegDataSample(metainfo=meta)])
    case.check('probs', sample.seg_logits.data[:, ::sub, ::sub])
    case.check('pred', sample.pred_sem_seg.data[0, ::sub, ::sub])

    model.halves, own = True, config['halves']
    model.cos_fac, model.refine_neg_cos = own['cos_fac'], own['refine_neg_cos']
    case.check('alt/logits_halves', at_original_size(maps_of(model, image, meta), meta)[:, ::sub, ::sub])
    check_refinement(case)
    case.done()
