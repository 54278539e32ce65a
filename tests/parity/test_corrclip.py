"""CorrCLIP equals the official code: regions, both backbones, region tokens, windows of image and regions, votes."""

from __future__ import annotations

import torch
from dense_case import arch_of, image_of, name_maps, names_of, pair, steps_of, windows
from mmseg.structures import SegDataSample
from official import Case, fill
from test_proxyclip import MULTIPLE, load_proxy, proxy_of
from torch.nn import functional as F

from vlm_dense.clip.last_blocks import LastBlocks
from vlm_dense.methods.dense.corrclip import PADDING, CorrCLIP, resized, vote
from vlm_dense.registry import MODELS


def regions_of(labels: torch.Tensor):
    return lambda image, meta: labels


def build(config: dict, labels: torch.Tensor) -> CorrCLIP:
    """The model on the weights of the official run, with the case's regions."""
    arch, options = arch_of(config), config['options']
    attention = dict(type='vlm_dense.CorrCLIPAttention', proxy=dict(proxy_of(config['dino']), feature='query_key'))
    tower = dict(type='vlm_dense.CLIPViT', arch=arch, head=True, pos_mode='dino', remainder='drop')
    model = MODELS.build(
        dict(
            type='vlm_dense.CorrCLIP',
            class_names=names_of(config),
            backbone=tower | dict(dense_attention=attention),
            text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
            text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=config['templates']),
            postprocess=steps_of(options, at_once=False),
            regions=dict(type='vlm_dense.ColourRegions'),
            test_cfg=windows(options, window_multiple=MULTIPLE),
        )
    )
    model.regions = regions_of(labels)
    weights = {}
    for key, value in model.state_dict().items():
        if 'dense_attention' in key:
            weights[key] = value
            continue
        source = key.replace('backbone.', 'visual.').removeprefix('decode_head.text_encoder.')
        weights[key] = fill(source, tuple(value.shape))
    model.load_state_dict(weights)
    load_proxy(model.backbone.dense_attention.proxy.model, config['dino'])
    return model.eval()


def seen_windows(model: CorrCLIP, image, meta) -> tuple[list[LastBlocks], list]:
    """What the part gets and gives, window by window."""
    inputs, outputs, part = [], [], model.backbone.dense_attention

    def keep(_, args, out):
        inputs.append(args[0])
        outputs.append(out)

    hook = part.register_forward_hook(keep)
    batch, model.test_cfg['window_batch_size'] = model.test_cfg.get('window_batch_size', 8), 1
    model.predict(image, [SegDataSample(metainfo=meta)])
    model.test_cfg['window_batch_size'] = batch
    hook.remove()
    return inputs, outputs


def check_window(
    case: Case, name: str, part, last: LastBlocks, features: torch.Tensor, originals: torch.Tensor
) -> None:
    maps = part.features(last.images)
    grid, places = tuple(maps.shape[2:]), maps[0].flatten(1).T
    labels = resized(last.regions, grid)[0]
    merged = part.merged(places, labels.flatten())
    distance, cluster = part.clusters(places, labels.flatten())
    weights = part.weights(places, merged)[None]
    present = resized(merged.unflatten(0, grid)[None], last.grid).flatten()
    deep, middle, _ = part.trunk(last, [present[None] == present.unique()[:, None]])
    main, spatial = (part._mixed(x, last, grid, weights)[0] for x in (deep, middle))
    found = dict(
        dino=places[::4, ::4],
        masks=torch.cat([originals, originals.new_full((1,), PADDING)])[labels.clamp(max=len(originals))],
        distance=distance,
        cluster=cluster,
        main_spatial=torch.stack([main, spatial], dim=1)[::3, :, ::8],
        features=features[0, ::2, ::2],
    )
    for key, value in found.items():
        if f'mid/{name}/{key}' in case:
            case.check(f'mid/{name}/{key}', value)


def maps_of(model: CorrCLIP, image, meta) -> torch.Tensor:
    """Cosines (N, H, W) of all names in original size."""
    sample = SegDataSample(metainfo=meta)
    return name_maps(model, model.joined(image, [model.label_map(image[0], meta)], [sample]), meta['ori_shape'])[0]


@torch.no_grad()
def test_every_official_number_is_reproduced(corrclip_case):
    case = Case(corrclip_case)
    config, sub = case.config, case.config['sub']
    labels = torch.as_tensor(case['masks'].astype('int64'))
    model, image = build(config, labels), image_of(config['image'])
    meta = dict(img_shape=tuple(image.shape[2:]), ori_shape=tuple(config['ori_shape']))
    text = F.normalize(model.decode_head.embed_classes(), dim=-1)
    case.check('text_embeddings', text)
    inputs, outputs = seen_windows(model, image, meta)
    assert len(inputs) == config['windows']
    for name, index in enumerate(config['mid_windows']):
        check_window(
            case, str(name), model.backbone.dense_attention, inputs[index], outputs[index].features, labels.unique()
        )
    case.check('logits', maps_of(model, image, meta)[:, ::sub, ::sub])
    found: list[torch.Tensor] = []
    decided = model.postprocess.scores
    model.postprocess.scores = lambda *args: found.append(decided(*args)) or found[-1]
    [sample] = model.predict(image, [SegDataSample(metainfo=meta)])
    case.check('probs', found[0].values[0, :, ::sub, ::sub])
    case.check('pred_before', found[0].decided[0, ::sub, ::sub])
    case.check('pred', sample.pred_sem_seg.data[0, ::sub, ::sub])
    assert torch.equal(vote(found[0].decided, labels.unique(return_inverse=True)[1]), sample.pred_sem_seg.data)
    other = config['padded']
    crop, stride = pair(other['slide_crop']), pair(other['slide_stride'])
    model.test_cfg = dict(mode='slide', crop_size=crop, stride=stride, window_multiple=MULTIPLE)
    inputs, outputs = seen_windows(model, image, meta)
    check_window(case, 'padded', model.backbone.dense_attention, inputs[0], outputs[0].features, labels.unique())
    case.check('alt/logits_padded', maps_of(model, image, meta)[:, ::sub, ::sub])
    case.done()
