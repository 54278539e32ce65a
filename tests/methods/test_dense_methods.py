"""MaskCLIP's successors: batches, odd images, odd proxies, bad options, the decision by names."""

from __future__ import annotations

import pytest
import torch
from margins import MARGIN, margin
from mmseg.structures import SegDataSample
from tiny_towers import vit
from torch.nn import functional as F

from vlm_dense.clip.vit import CLIPViT
from vlm_dense.errors import ConfigError
from vlm_dense.methods.dense.resclip import clear_path
from vlm_dense.methods.dense.sc_clip import SCCLIPAttention, replace_outliers
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.postprocess import PostProcess
from vlm_dense.segmentation.steps import ClassMaps
from vlm_dense.segmentation.window_maps import WindowMaps

ARCH = vit(embed_dim=24, text=dict(context_length=16, vocab_size=64, heads=1, layers=1), layers=4)


def proxy(patch=4):
    return dict(
        type='vlm_dense.ProxyViT',
        model='vit_tiny_patch16_224',
        pretrained=False,
        img_size=32,
        patch_size=patch,
        embed_dim=32,
        depth=1,
        num_heads=2,
    )


PARTS = dict(
    naclip=dict(type='vlm_dense.NACLIPAttention', std=1.5),
    neighbours=dict(type='vlm_dense.NACLIPAttention', std=1.5, similarity=()),
    clearclip=dict(type='vlm_dense.ClearCLIPAttention', num_blocks=2),
    sclip=dict(type='vlm_dense.SCLIPAttention'),
    sc_clip=dict(type='vlm_dense.SCCLIPAttention', pre=2, post=1, multi=(0, 3)),
    resclip=dict(type='vlm_dense.ResCLIPAttention', cross_blocks=(1, 2), std=1.5, pamr=dict(dilations=(1, 2))),
    proxyclip=dict(type='vlm_dense.ProxyCLIPAttention', proxy=proxy()),
)
every_part = pytest.mark.parametrize('part', list(PARTS))


def tower(part, **kwargs):
    torch.manual_seed(0)
    options = dict(pos_mode='bicubic_scaled', remainder='drop') | kwargs
    cfg = PARTS[part] if isinstance(part, str) else part
    return CLIPViT(ARCH, head=True, dense_attention=cfg, **options).eval()


def value(own, images):
    text = torch.randn(5, 24, generator=torch.Generator().manual_seed(1))

    def classify(features):
        return 40 * torch.einsum('bdhw,kd->bkhw', F.normalize(features, dim=1), F.normalize(text, dim=1))

    return own.encode(images, ['value'], classify=classify).value


def images(*size, seed=2):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@every_part
@torch.no_grad()
def test_each_image_of_a_batch_is_on_its_own(part):
    own, batch = tower(part), images(3, 3, 24, 40)
    alone = torch.cat([value(own, image[None]) for image in batch])
    torch.testing.assert_close(value(own, batch), alone, rtol=1e-4, atol=1e-5)


@every_part
@pytest.mark.parametrize('size', [(8, 40), (40, 8), (8, 8)])
@torch.no_grad()
def test_maps_of_one_row_or_one_place(part, size):
    own = tower(part)
    found = value(own, images(1, 3, *size))
    grid = tuple(side // (4 if part == 'proxyclip' else 8) for side in size)
    assert found.shape == (1, 24, *grid) and found.isfinite().all()


@every_part
@pytest.mark.parametrize('remainder', ['drop', 'pad'])
@torch.no_grad()
def test_sides_that_are_no_multiple_of_the_patch(part, remainder):
    found = value(tower(part, remainder=remainder), images(1, 3, 27, 45))
    assert found.isfinite().all()
    if part != 'proxyclip':
        assert found.shape[2:] == ((3, 5) if remainder == 'drop' else (4, 6))


@every_part
@torch.no_grad()
def test_an_image_of_one_colour_has_finite_features(part):
    own = tower(part)
    own.positional_embedding.zero_()
    assert value(own, torch.ones(1, 3, 64, 64)).isfinite().all()


@every_part
def test_a_resnet_has_no_last_blocks(part):
    with pytest.raises(ConfigError, match='CLIPViT'):
        MODELS.build(dict(type='vlm_dense.MaskCLIPResNet', arch='tiny-rn', dense_attention=PARTS[part]))


@pytest.mark.parametrize('patch', [4, 8, 16])
@torch.no_grad()
def test_a_proxy_brings_its_own_grid(patch):
    found = value(tower(dict(PARTS['proxyclip'], proxy=proxy(patch))), images(1, 3, 32, 64))
    assert found.shape == (1, 24, 32 // patch, 64 // patch) and found.isfinite().all()


def test_a_proxy_stays_frozen_and_in_eval_mode():
    own = tower('proxyclip').train()
    assert not own.dense_attention.proxy.training
    assert not any(p.requires_grad for p in own.dense_attention.proxy.parameters())


@torch.no_grad()
def test_a_proxy_without_map_is_refused():
    own = tower('proxyclip')
    own.dense_attention.proxy = torch.nn.Flatten()
    with pytest.raises(ConfigError, match='must give a map'):
        value(own, images(1, 3, 32, 32))


@pytest.mark.parametrize(
    'cfg, words',
    [
        (dict(type='vlm_dense.NACLIPAttention', std=0), 'std must be positive'),
        (dict(type='vlm_dense.NACLIPAttention', std=None, similarity=()), 'only neighbours'),
        (dict(type='vlm_dense.NACLIPAttention', similarity=('kx',)), "'qk', 'qq'"),
        (dict(type='vlm_dense.SCLIPAttention', similarity='qq'), 'list'),
        (dict(type='vlm_dense.ClearCLIPAttention', num_blocks=0), 'at least 1'),
        (dict(type='vlm_dense.ClearCLIPAttention', num_blocks=5), '4 blocks'),
        (dict(type='vlm_dense.SCCLIPAttention', multi=(3, 3)), 'first < end'),
        (dict(type='vlm_dense.SCCLIPAttention', outliers=2), 'share'),
        (dict(type='vlm_dense.SCCLIPAttention'), 'deeper architecture'),
        (dict(type='vlm_dense.ResCLIPAttention'), 'deeper architecture'),
        (dict(type='vlm_dense.ResCLIPAttention', similarity=()), 'similarity'),
        (dict(type='vlm_dense.ResCLIPAttention', cross_blocks=()), 'there are none'),
        (dict(type='vlm_dense.ProxyCLIPAttention', proxy=dict(proxy(), positions='no')), "'dino' or 'timm'"),
    ],
)
def test_options_that_cannot_work_are_refused(cfg, words):
    with pytest.raises(ConfigError, match=words):
        tower(cfg)


def test_outliers_stay_that_have_no_sound_neighbour_and_others_are_replaced():
    tokens, grid = images(1, 20, 3), (4, 5)
    none, all_ = torch.zeros(1, 20, dtype=torch.bool), torch.ones(1, 20, dtype=torch.bool)
    assert torch.equal(replace_outliers(tokens, none, grid), tokens)
    assert torch.equal(replace_outliers(tokens, all_, grid), tokens)
    one = none.clone()
    one[0, 7] = True  # row 1, column 2
    fixed, around = replace_outliers(tokens, one, grid), [1, 2, 3, 6, 8, 11, 12, 13]
    torch.testing.assert_close(fixed[0, 7], tokens[0, around].mean(0))
    assert torch.equal(fixed[0, ~one[0]], tokens[0, ~one[0]])


def test_a_far_token_is_the_anomaly():
    tokens = images(1, 40, 8)
    tokens[0, 13] *= 20
    part = SCCLIPAttention(outliers=0.02)
    assert part.anomalies(part.outlier_factor(tokens))[0].nonzero().flatten().tolist() == [13]


@pytest.mark.parametrize('count', [2, 5, 20, 21])
def test_of_few_tokens_the_two_farthest_apart_are_equally_lonely(count):
    """By the definition their factors are equal; rounding must not make one of them the anomaly."""
    part = SCCLIPAttention()
    factor = part.outlier_factor(images(64, count, 32))
    first, second = factor.topk(2, dim=1).values.unbind(1)
    assert torch.equal(first, second) and not part.anomalies(factor).any()


def test_a_wall_stands_between_patches():
    labels = torch.tensor([[[0, 1, 0]]])
    clear = clear_path(labels)[0]
    assert not clear[0, 2] and not clear[2, 0] and clear[0, 0]
    assert clear_path(torch.zeros(1, 1, 3, dtype=torch.int64)).all()


def step(kind, **options):
    return dict(type=f'vlm_dense.{kind}', **options)


ALIASES, SIZE = step('Aliases'), step('OriginalSize', at_once=True)
SHARP, PAMR = step('Probabilities', scale=60.0), step('PAMR', iterations=2, dilations=(1, 2))
ONCE = step('PAMR', iterations=1, dilations=(1,))


def decide(maps, classes, *steps):
    """Scores (K, H, W) and labels of cosines (N, H, W) of names."""
    drawn = WindowMaps()
    drawn.add((0, maps.shape[1], 0, maps.shape[2]), maps)
    names = tuple(('name',) * count for count in classes)
    found = PostProcess([step('OriginalSize'), *steps]).scores(drawn, maps, {}, lambda v: ClassMaps(v, classes=names))
    return found.values[0], found.decided[0]


def test_decision_by_names_equals_its_definition():
    maps, classes, names = 0.1 * images(5, 6, 7), [2, 1, 2], step('Probabilities', scale=30)
    steps = names, ALIASES, step('AreaThreshold', thresh=0.3), step('ProbabilityThreshold', thresh=0.4)
    scores, labels = decide(maps, classes, *steps)
    for y in range(6):
        for x in range(7):
            p = (30 * maps[:, y, x]).exp()
            p = p / p.sum()
            wanted = torch.stack([p[:2].max(), p[2], p[3:].max()])
            found = scores[:, y, x]
            assert ((found - wanted).abs() < 1e-5).logical_or(found == 0).all()
            assert labels[y, x] == (found.argmax() if found.max() >= 0.4 else 0)
    p = (30 * maps).softmax(0)
    plain = torch.stack([p[:2].amax(0), p[2], p[3:].amax(0)]).argmax(0)
    pixels = plain.flatten().bincount(minlength=3)
    kept = [True, *(pixels[1:] > 0.3 * pixels[1:].sum()).tolist()]
    assert [bool(s.any()) for s in scores] == kept
    summed, same = decide(maps, classes, names, ALIASES, step('SumToOne'))
    torch.testing.assert_close(summed.sum(0), torch.ones(6, 7))
    assert torch.equal(same, plain)


def test_no_class_is_left_but_the_background():
    steps = step('Probabilities', scale=40), ALIASES, step('AreaThreshold', thresh=0.99)
    scores, labels = decide(images(4, 6, 7), [1, 1, 1, 1], *steps)
    assert not labels.any() and not scores[1:].any()


@pytest.mark.parametrize(
    ('steps', 'words'),
    [
        ([step('Probabilities', scale=0)], 'scale must be positive'),
        ([step('ProbabilityThreshold', thresh=1.5)], 'below 1'),
        ([step('AreaThreshold', thresh=-1)], 'at least 0'),
        ([step('ProbabilityThreshold', thresh=0.5), step('OriginalSize')], 'Put OriginalSize in front'),
        ([step('OriginalSize'), step('OriginalSize')], 'twice'),
        ([step('NACLIPAttention')], 'is no step'),
    ],
)
def test_lists_of_steps_that_cannot_be_are_refused(steps, words):
    with pytest.raises(ConfigError, match=words):
        PostProcess(steps)


def maskclip(**options):
    clip = dict(arch='tiny-vit', pretrained='bundled')
    part = dict(type='vlm_dense.ResCLIPAttention', cross_blocks=(1, 2), pamr=dict(iterations=2, dilations=(1,)))
    tower = dict(type='vlm_dense.CLIPViT', head=True, dense_attention=part, remainder='drop', **clip)
    cfg = dict(
        type='vlm_dense.MaskCLIP',
        backbone=tower | options.pop('backbone', {}),
        text_encoder=dict(type='vlm_dense.TextTower', **clip),
        class_names=[['background', 'texture'], 'circle', 'star'],
        postprocess=[SIZE, step('Probabilities', scale=40.0), ALIASES, step('ProbabilityThreshold', thresh=0.1)],
        test_cfg=dict(mode='slide', crop_size=(37, 40), stride=(20, 20), window_multiple=8),
    )
    return MODELS.build(cfg | options).eval()


EIGHT_SIZES = [(50, 70), (30, 64), (64, 37), (8, 70), (64, 8), (16, 16), (41, 41), (57, 70)]
MODELS_OF_ALL = dict(
    PARTS,
    maskclip=dict(type='vlm_dense.ValueAttention'),
    sc_clip=dict(type='vlm_dense.SCCLIPAttention', pre=2, post=1, multi=(0, 3)),
    lposs=None,
)


def model_of(method, **options):
    """A method as a segmentor on the bundled tiny-vit, with windows."""
    torch.manual_seed(0)  # of proxies
    if method != 'lposs':
        return maskclip(backbone=dict(dense_attention=MODELS_OF_ALL[method]), **options)
    windows = dict(mode='slide', crop_size=(37, 40), stride=(20, 20))
    own = dict(proxy=proxy(8), k=10, alpha=0.2)  # spread less, so that noise keeps several classes
    more = dict(type='vlm_dense.LPOSS', postprocess=[], test_cfg=windows, **own)
    tower = dict(type='vlm_dense.CLIPViT', dense_attention=dict(type='vlm_dense.ValueAttention'))
    return maskclip(backbone=tower, **more | options)


@pytest.mark.parametrize('method', list(MODELS_OF_ALL))
@torch.no_grad()
def test_a_batch_of_eight_images_equals_eight_single_runs(method):
    models = [model_of(method)]
    models.append(model_of(method, test_cfg=dict(models[0].test_cfg, keep_logits=False)))
    models[1].load_state_dict(models[0].state_dict())
    inputs, generator = torch.zeros(8, 3, 64, 70), torch.Generator().manual_seed(0)
    for i, (h, w) in enumerate(EIGHT_SIZES):
        inputs[i, :, :h, :w] = torch.randn(3, h, w, generator=generator)
    metas = [dict(img_shape=size, ori_shape=(size[0] + 9, size[1] + 5)) for size in EIGHT_SIZES]

    def labels(model, some):
        samples = [SegDataSample(metainfo=metas[i]) for i in some]
        if len(some) == 1:
            h, w = EIGHT_SIZES[some[0]]
            return [sample.pred_sem_seg.data for sample in model.predict(inputs[some, :, :h, :w], samples)]
        return [sample.pred_sem_seg.data for sample in model.predict(inputs[some], samples)]

    for sample in models[0].predict(inputs, [SegDataSample(metainfo=meta) for meta in metas]):
        assert margin(sample.seg_logits.data) > MARGIN
    together = labels(models[0], list(range(8)))
    for i, (found, strips) in enumerate(zip(together, labels(models[1], list(range(8))), strict=True)):
        assert found.shape == (1, *metas[i]['ori_shape'])
        assert torch.equal(found, labels(models[0], [i])[0])
        assert torch.equal(found, strips)
    assert len(torch.cat([each.flatten() for each in together]).unique()) > 1


@pytest.mark.parametrize(
    'steps',
    [
        [SIZE, SHARP, ALIASES, step('ProbabilityThreshold', thresh=0.4)],
        [
            step('OriginalSize'),
            SHARP,
            ALIASES,
            step('AreaThreshold', thresh=0.3),
            step('ProbabilityThreshold', thresh=0.4),
        ],
        [SIZE, PAMR, SHARP, ALIASES, step('ProbabilityThreshold', thresh=0.35)],
        [SIZE, PAMR, SHARP, ALIASES, step('AreaThreshold', thresh=0.3)],
        [ONCE, SIZE, SHARP, ALIASES, step('SumToOne')],
        [ONCE, ALIASES, SIZE],
        [SHARP, PAMR, step('Aliases', keep='mean')],
    ],
)
@pytest.mark.parametrize('mode', ['slide', 'whole'])
@torch.no_grad()
def test_labels_without_full_maps_are_the_same(steps, mode):
    names = [['background', 'texture'], *(f'a {k}' for k in ('circle', 'star', 'ring', 'cross', 'heart', 'square'))]
    test_cfg = dict(mode='whole') if mode == 'whole' else dict(mode=mode, crop_size=(40, 40), stride=(20, 20))
    options = dict(class_names=[*names, ['moon', 'crescent', 'sickle']], postprocess=steps)
    full, light = (maskclip(**options, test_cfg=dict(test_cfg, keep_logits=keep)) for keep in (True, False))
    inputs, meta = images(1, 3, 48, 64, seed=74), dict(img_shape=(48, 64), ori_shape=(35, 45))
    [a], [b] = (model.predict(inputs, [SegDataSample(metainfo=meta)]) for model in (full, light))
    thresholds = [each['thresh'] for each in steps if 'ProbabilityThreshold' in each['type']]
    assert margin(a.seg_logits.data, *thresholds) > MARGIN
    assert torch.equal(a.pred_sem_seg.data, b.pred_sem_seg.data) and 'seg_logits' not in b
    assert len(a.pred_sem_seg.data.unique()) > 1


@pytest.mark.parametrize('keep', [True, False])
@torch.no_grad()
def test_a_single_window_goes_to_its_own_size_first(keep):
    inputs, meta = images(1, 3, 48, 64), dict(img_shape=(48, 64), ori_shape=(70, 90))

    def found(**test_cfg):
        names = ['a circle', 'a star', 'a ring', 'a cross', 'red', 'blue', 'noise', 'texture']
        steps = [SIZE, SHARP, ALIASES]
        model = maskclip(class_names=names, postprocess=steps, test_cfg=dict(test_cfg, keep_logits=keep))
        (sample,) = model.predict(inputs, [SegDataSample(metainfo=meta)])
        only = model.window_map(inputs)
        small = F.interpolate(only, (48, 64), mode='bilinear')
        ways = {n: F.interpolate(maps, (70, 90), mode='bilinear')[0] for n, maps in ((1, only), (2, small))}
        maps = {n: (60 * cosines).softmax(dim=0) for n, cosines in ways.items()}
        if keep:
            torch.testing.assert_close(sample.seg_logits.data, maps[2 if test_cfg['mode'] == 'slide' else 1])
        return sample.pred_sem_seg.data[0], maps[1].argmax(dim=0), maps[2].argmax(dim=0)

    labels, once, twice = found(mode='slide', crop_size=(48, 64), stride=(24, 32))
    assert torch.equal(labels, twice) and not torch.equal(once, twice)
    labels, once, twice = found(mode='whole')
    assert torch.equal(labels, once)


@pytest.mark.parametrize('method', list(MODELS_OF_ALL))
@torch.no_grad()
def test_windows_may_be_larger_than_the_image(method):
    inputs, meta = images(1, 3, 30, 44, seed=6), dict(img_shape=(30, 44), ori_shape=(30, 44))
    more = {} if method == 'lposs' else dict(window_multiple=8)
    large = dict(mode='slide', crop_size=(200, 300), stride=(100, 100), **more)
    same = dict(mode='slide', crop_size=(30, 44), stride=(30, 44), **more)
    found = [model_of(method, test_cfg=cfg).predict(inputs, [SegDataSample(metainfo=meta)])[0] for cfg in (large, same)]
    assert margin(found[1].seg_logits.data) > MARGIN
    assert torch.equal(*(sample.pred_sem_seg.data for sample in found))


@pytest.mark.parametrize('outliers', [0.0, 1.0])
@torch.no_grad()
def test_all_tokens_may_be_anomalous_or_none(outliers):
    own = tower(dict(PARTS['sc_clip'], outliers=outliers))
    assert value(own, images(2, 3, 24, 40)).isfinite().all()


@torch.no_grad()
def test_a_row_of_pixels_is_padded_or_refused():
    row = images(1, 3, 1, 40)
    assert value(tower('naclip', remainder='pad'), row).shape[2:] == (1, 5)
    with pytest.raises(ConfigError, match='at least 8 x 8 px'):
        value(tower('naclip'), row)


@torch.no_grad()
def test_a_batch_of_several_sizes_equals_single_runs():
    model, sizes = maskclip(), [(50, 70), (30, 64), (64, 37)]
    inputs = torch.zeros(3, 3, 64, 70)
    for i, (h, w) in enumerate(sizes):
        inputs[i, :, :h, :w] = images(3, h, w)
    metas = [dict(img_shape=size, ori_shape=(size[0] + 9, size[1] - 5)) for size in sizes]
    found = model.predict(inputs, [SegDataSample(metainfo=meta) for meta in metas])
    for i, ((h, w), meta) in enumerate(zip(sizes, metas, strict=True)):
        [alone] = model.predict(inputs[i : i + 1, :, :h, :w], [SegDataSample(metainfo=meta)])
        assert alone.pred_sem_seg.data.shape == (1, *meta['ori_shape'])
        assert margin(alone.seg_logits.data) > MARGIN
        assert torch.equal(found[i].pred_sem_seg.data, alone.pred_sem_seg.data)
        torch.testing.assert_close(found[i].seg_logits.data, alone.seg_logits.data, rtol=1e-4, atol=1e-5)
    [[listed], [other]] = model.predict_lists(
        inputs[:1, :, :50],
        [SegDataSample(metainfo=metas[0])],
        [[['background', 'texture'], 'circle', 'star'], ['a', 'b']],
    )
    assert torch.equal(listed.pred_sem_seg.data, found[0].pred_sem_seg.data)
    assert other.pred_sem_seg.data.max() <= 1
    with pytest.raises(ConfigError, match='augmented'):
        model.strip_maps(inputs, [SegDataSample(metainfo=meta) for meta in metas])


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(decode_head=dict(refinements=[step('PromptDenoising')])), 'PromptDenoising'),
        (dict(decode_head=dict(refinements=[step('ThresholdBackground', thresh=0.5)])), 'ThresholdBackground'),
        (dict(variants=dict(mean=dict(refinements=[step('PromptDenoising')]))), 'PromptDenoising'),
        (dict(postprocess=[SIZE, step('Probabilities'), step('Aliases', keep='first')]), "keep='first'"),
    ],
)
def test_refinements_without_effect_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        maskclip(**options)


@torch.no_grad()
def test_windows_are_padded_evenly_and_cut_back():
    model = maskclip(test_cfg=dict(mode='slide', crop_size=(37, 40), stride=(20, 20), window_multiple=8))
    crop = images(1, 3, 37, 40)
    padded = model.window_map(F.pad(crop, (0, 0, 1, 2)))
    wanted = F.interpolate(padded, (40, 40), mode='bilinear', align_corners=False)[:, :, 1:38]
    [(_, maps)] = model.window_maps(list(crop))
    [(box, found)] = maps.windows
    assert box == (0, 37, 0, 40)
    torch.testing.assert_close(found[None], wanted)
    with pytest.raises(ConfigError, match='window_multiple'):
        maskclip(test_cfg=dict(mode='whole', window_multiple=8)).predict(crop)
