"""LPOSS and LPOSS+ equal the official code: both backbones, both graphs, what is spread over them."""

from __future__ import annotations

import torch
from dense_case import arch_of, image_of, names_of, pair
from mmseg.structures import SegDataSample
from official import Case, fill
from test_proxyclip import load_proxy, proxy_of

from vlm_dense.methods.dense.affinity import CLIP_MEAN, CLIP_STD
from vlm_dense.methods.dense.lposs import PixelGraph, scaled_lab
from vlm_dense.methods.maskclip import MaskCLIP
from vlm_dense.registry import MODELS

FEATURES = dict(q='query', k='key', v='value')


def _build(config: dict, mode: str, refine: bool):
    options, arch = config['options'], arch_of(config)
    test_cfg = dict(mode='whole')
    if mode == 'slide':
        test_cfg = dict(mode='slide', crop_size=pair(options['crop_size']), stride=pair(options['stride']))
    model = MODELS.build(
        dict(
            type='vlm_dense.LPOSS',
            class_names=names_of(config),
            backbone=dict(type='vlm_dense.CLIPViT', arch=arch, head=True, pos_mode='bicubic'),
            text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
            text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=config['templates']),
            proxy=proxy_of(config['vfm']) | dict(feature=FEATURES[options['enc_type_feats']]),
            k=options['k'],
            gamma=options['gamma'],
            sigma=options['sigma'],
            distance_power=options['pix_dist_pow'],
            alpha=options['alpha'],
            steps=options['maxiter'],
            tol=options['tol'],
            pixels=dict(tau=options['tau'], size=2 * (options['r'] // 2) + 1) if refine else None,
            test_cfg=test_cfg,
        )
    )
    weights = {
        key: fill(key.replace('backbone.', 'visual.').removeprefix('decode_head.text_encoder.'), tuple(value.shape))
        for key, value in model.state_dict().items()
        if not key.startswith('proxy.')
    }
    model.load_state_dict(weights, strict=False)
    load_proxy(model.proxy.model, config['vfm'])
    return model.eval()


def _normalised(image):
    mean, std = (torch.tensor(x)[:, None, None] for x in (CLIP_MEAN, CLIP_STD))
    return (image - mean) / std


def _scores(model, images, ori_shape):
    [sample] = model.predict(images, [SegDataSample(metainfo=dict(img_shape=images.shape[2:], ori_shape=ori_shape))])
    assert torch.equal(sample.pred_sem_seg.data[0], sample.seg_logits.data.argmax(0))
    return sample.seg_logits.data


def _check_steps(case: Case, model, images) -> None:
    """mid/: patches of all windows, and the pixels."""
    config, sub = case.config, case.config['sub']
    [(_, maps)] = MaskCLIP.window_maps(model, list(images))
    boxes, values = zip(*maps.windows, strict=True)
    y1, y2, x1, x2 = boxes[0]
    window = images[:, :, y1:y2, x1:x2]
    clip, proxy = (torch.nn.functional.normalize(f(window), dim=1) for f in (model.clip_features, model.proxy_features))
    case.check('mid/clip_feat', clip[0].permute(1, 2, 0)[..., ::3])
    case.check('mid/dino_feat', proxy[0].permute(1, 2, 0)[..., ::3])
    nodes = torch.cat([each.flatten(1).T for each in values])
    clip, proxy = nodes[:, : model.backbone.embed_dim], nodes[:, model.backbone.embed_dim :]
    case.check('mid/preds', model.name_cosines(clip)[::2])
    case.check('mid/knn_sims', model.nearest(proxy)[0][::8])
    places = model.places(boxes, [each.shape[1:] for each in values], proxy.device)
    case.check('mid/graph', model.graph(proxy, places).to_dense()[::12])
    spread = model.spread(maps)
    case.check('mid/lp', torch.cat([each.flatten(1).T for _, each in spread.windows])[::2])
    case.check('mid/upsampled', spread.merged()[:, ::sub, ::sub])
    colours = model.renormalise.colours(images[0])
    case.check('mid/lab', scaled_lab(colours).permute(1, 2, 0)[::sub, ::sub])
    options, rows = config['options'], torch.tensor(config['pixel_rows'])
    graph = PixelGraph(colours, options['tau'], 2 * (options['r'] // 2) + 1)
    ones = torch.nn.functional.one_hot(rows, colours[0].numel()).float().view(-1, *colours.shape[1:])
    case.check('mid/pixel_graph', graph(ones).flatten(1))


@torch.no_grad()
def test_every_official_number_is_reproduced(lposs_case):
    case = Case(lposs_case)
    config, sub, ori = case.config, case.config['sub'], tuple(case.config['ori_shape'])
    model = _build(config, config['options']['mode'], refine=False)
    text = model.decode_head.embed_classes()
    case.check('text_embeddings', torch.nn.functional.normalize(text, dim=-1))
    image, whole = (_normalised(image_of(config[key])) for key in ('image', 'whole'))
    _check_steps(case, model, image)
    case.check('logits', _scores(model, image, ori)[:, ::sub, ::sub])
    for key, images, mode, refine in (
        ('alt/logits_plus', image, config['options']['mode'], True),
        ('alt/logits_whole', whole, 'whole', False),
        ('alt/logits_whole_plus', whole, 'whole', True),
    ):
        other = _build(config, mode, refine)
        other.decode_head.embed_classes = lambda *_: text
        case.check(key, _scores(other, images, ori)[:, ::sub, ::sub])
    case.done()
