"""The refinements of MaskCLIP: a list of parts, and the older options that change it."""

from __future__ import annotations

import pytest
import torch
from mmseg.structures import SegDataSample

from vlm_dense.engine.configs.files import load_config
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.methods.maskclip.head import build_refinements
from vlm_dense.registry import MODELS
from vlm_dense.segmentation import VariantIoU

CLIP = dict(arch='tiny-vit', pretrained='bundled')
NAMES = ['void', ['star', 'asterisk'], 'circle', 'ring']
ALIASES = dict(type='vlm_dense.Aliases', keep='mean')
NAMED = dict(type='vlm_dense.NamedBackground', names=['texture', 'wall'])
DENOISING = dict(type='vlm_dense.PromptDenoising', thresh=0.3)
SMOOTHING = dict(type='vlm_dense.KeySmoothing', thresh=0.9, norm='channel')
THRESHOLD = dict(type='vlm_dense.ThresholdBackground', thresh=0.4)


def build(class_names=NAMES, **head):
    return maskclip(class_names=class_names, decode_head=head)


def maskclip(**options):
    cfg = dict(
        type='vlm_dense.MaskCLIP',
        backbone=dict(type='vlm_dense.MaskCLIPViT', **CLIP),
        text_encoder=dict(type='vlm_dense.TextTower', **CLIP),
        class_names=NAMES,
        test_cfg=dict(mode='whole'),
    )
    return MODELS.build(cfg | options).eval()


def kinds(parts):
    return [type(part).__name__ for part in parts]


@torch.no_grad()
@pytest.mark.parametrize(
    ('parts', 'older'),
    [
        ([], {}),
        ([ALIASES, DENOISING], dict(aliases='mean', pd_thresh=0.3)),
        ([NAMED, SMOOTHING], dict(background=dict(names=['texture', 'wall']), ks_thresh=0.9, ks_norm='channel')),
        ([SMOOTHING, THRESHOLD], dict(ks_thresh=0.9, ks_norm='channel', background=dict(thresh=0.4))),
        (
            [ALIASES, NAMED, DENOISING, SMOOTHING, THRESHOLD],
            dict(
                aliases='mean',
                background=dict(names=['texture', 'wall'], thresh=0.4),
                pd_thresh=0.3,
                ks_thresh=0.9,
                ks_norm='channel',
            ),
        ),
    ],
)
def test_the_list_and_the_older_options_are_the_same(parts, older):
    images = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    new, old = build(refinements=parts, scale=20.0), build(**older, scale=20.0)
    assert new.decode_head.class_names == old.decode_head.class_names
    assert torch.equal(new._forward(images), old._forward(images))


def test_older_options_change_the_list_of_a_config():
    head = build(refinements=[dict(type='vlm_dense.Aliases', keep='first'), THRESHOLD], pd_thresh=0.5, ks_thresh=1.0)
    head = head.decode_head
    assert kinds(head.refinements) == ['Aliases', 'PromptDenoising', 'KeySmoothing', 'ThresholdBackground']
    assert head.class_names == ((), ('star',), ('circle',), ('ring',))
    assert kinds(head.variant(pd_thresh=0.0).refinements) == ['Aliases', 'KeySmoothing', 'ThresholdBackground']
    assert head.variant(ks_norm='channel').refinements[2].norm == 'channel'
    assert head.refinements[2].norm == 'position'  # the variant is another list


def step(kind, **options):
    return dict(type=f'vlm_dense.{kind}', **options)


PAMR = dict(iterations=2, dilations=[1, 2])
DECISION = dict(scale=30.0, prob_thresh=0.2, area_thresh=0.1, sum_to_one=True, two_steps=True, pamr=PAMR)
DECIDED = [
    step('OriginalSize'),
    step('PAMR', **PAMR),
    step('Probabilities', scale=30.0),
    step('Aliases'),
    step('AreaThreshold', thresh=0.1),
    step('ProbabilityThreshold', thresh=0.2),
    step('SumToOne'),
]


@torch.no_grad()
@pytest.mark.parametrize(
    ('steps', 'older', 'wanted'),
    [
        ([], dict(pamr=PAMR), [step('Probabilities'), step('PAMR', **PAMR)]),
        (
            [],
            dict(decision=dict()),
            [step('OriginalSize', at_once=True), step('Probabilities', scale=40.0), step('Aliases')],
        ),
        ([], dict(decision=DECISION), DECIDED),
        (DECIDED[:4], dict(decision=dict(prob_thresh=0.5)), [*DECIDED[:4], step('ProbabilityThreshold', thresh=0.5)]),
        (
            DECIDED[:4],
            dict(decision=dict(pamr=None, scale=9.0)),
            [DECIDED[0], step('Probabilities', scale=9.0), DECIDED[3]],
        ),
        (DECIDED, dict(decision=dict(prob_thresh=0.0)), [*DECIDED[:5], DECIDED[6]]),
        (DECIDED, dict(decision=None), []),
    ],
)
def test_older_options_of_the_model_change_the_list(steps, older, wanted):
    models = [maskclip(postprocess=steps, **older), maskclip(postprocess=wanted)]
    assert [s.config for s in models[0].postprocess.steps] == [s.config for s in models[1].postprocess.steps]
    images = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    [a], [b] = (model.predict(images) for model in models)
    assert torch.equal(a.seg_logits.data, b.seg_logits.data)


def test_older_options_are_told_with_the_list_to_write():
    with pytest.warns(FutureWarning) as told:
        build(refinements=[ALIASES], pd_thresh=0.3)
        maskclip(pamr=None, decision=dict(prob_thresh=0.3))
    texts = [str(one.message) for one in told if 'will be removed' in str(one.message)]
    assert texts == [
        "MaskCLIPHead: pd_thresh will be removed; the same is refinements=[dict(type='vlm_dense.Aliases', "
        "keep='mean'), dict(type='vlm_dense.PromptDenoising', thresh=0.3)].",
        "MaskCLIP: decision will be removed; the same is postprocess=[dict(type='vlm_dense.OriginalSize', "
        "at_once=True), dict(type='vlm_dense.Probabilities', scale=40.0), dict(type='vlm_dense.Aliases'), "
        "dict(type='vlm_dense.ProbabilityThreshold', thresh=0.3)].",
    ]


def test_an_unknown_word_of_the_older_decision_is_refused():
    with pytest.raises(ConfigError, match='treshold'):
        maskclip(decision=dict(treshold=0.3))


@torch.no_grad()
def test_variants_that_need_keys_are_left_out_where_there_are_none(monkeypatch):
    told = []
    monkeypatch.setattr('vlm_dense.methods.maskclip.segmentor.print_log', lambda text, **_: told.append(text))
    cfg = load_config('maskclip_tiny-vit_shapes').model
    cfg.class_names = ['empty background', 'circle', 'star']
    cfg.backbone.dense_attention = step('NACLIPAttention')
    model = MODELS.build(cfg).eval()
    assert len(told) == 2 and all('NACLIPAttention' in text and 'KeySmoothing' in text for text in told)
    [sample] = model.predict(torch.zeros(1, 3, 48, 48), [SegDataSample(metainfo=dict(img_shape=(48, 48)))])
    assert list(model.variants) == ['denoised', 'random_text']
    assert 'pred_denoised' in sample and 'pred_smoothed' not in sample
    metric = VariantIoU(name='smoothed', iou_metrics=['mIoU'])
    metric.dataset_meta = dict(classes=cfg.class_names)
    metric.process({}, [sample.to_dict()])
    assert metric.evaluate(1) == {}


def test_the_order_of_the_list_counts():
    maps, key = torch.zeros(1, 4, 3, 5), torch.ones(1, 15, 7)  # places that are all alike
    maps[:, 1] = 0.19  # a probability of 0.6
    maps[0, :2, 0, 0] = torch.tensor([0.19, 0.0])  # class 0 is probable at one place, and nowhere after the average
    one, other = (
        build(refinements=parts, scale=8.0).decode_head for parts in ([DENOISING, SMOOTHING], [SMOOTHING, DENOISING])
    )
    assert not torch.allclose(one.refine(maps, key).probabilities, other.refine(maps, key).probabilities)


@pytest.mark.parametrize(
    ('parts', 'words'),
    [
        ([DENOISING, DENOISING], 'once'),
        ([DENOISING, ALIASES], 'stands first'),
        ([dict(type='vlm_dense.NACLIPAttention')], 'is no step'),
        ([dict(type='vlm_dense.Aliases', keep='sum')], 'must be one of'),
        ([dict(SMOOTHING, norm='row')], 'must be one of'),
        ([dict(THRESHOLD, thresh=0.0)], 'above 0'),
        ([NAMED, dict(THRESHOLD, index=1)], 'one class is the background'),
    ],
)
def test_lists_that_cannot_be_are_refused(parts, words):
    with pytest.raises(ConfigError, match=words):
        build_refinements(parts, {})


def test_a_background_beyond_the_classes_is_refused():
    with pytest.raises(ClassNamesError, match='index=9 must be one of at least two classes'):
        build(refinements=[dict(THRESHOLD, index=9)])


def test_variants_of_one_head_have_the_same_names():
    head = build(refinements=[NAMED]).decode_head
    assert kinds(head.variant(refinements=[NAMED, DENOISING]).refinements) == [
        'Aliases',
        'NamedBackground',
        'PromptDenoising',
    ]
    with pytest.raises(ConfigError, match='same names'):
        head.variant(refinements=[DENOISING])
