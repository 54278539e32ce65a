"""MaskCLIP as a segmentor and as a head: inference of any images, backgrounds, aliases, files, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from margins import MARGIN, margin
from mmengine import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from tiny_towers import resnet, vit
from torch import nn

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.contract import TextPrompt
from vlm_dense.errors import CheckpointError, ClassNamesError, ConfigError, WeightsNotFoundError
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.postprocess import CHANNELS_AT_ONCE

NAMES = ['background', 'circle', 'square', 'red star']
MANY = [f'thing number {i}' for i in range(2 * CHANNELS_AT_ONCE + 3)]
VIT = vit(embed_dim=32, text=dict(layers=1), patch_size=16, width=64, head_width=32)
RESNET = resnet(embed_dim=32, text=dict(layers=1))
BACKBONES = dict(
    vit=dict(type='vlm_dense.MaskCLIPViT', arch=VIT), resnet=dict(type='vlm_dense.MaskCLIPResNet', arch=RESNET)
)
TEMPLATES = ('a photo of a {}.', 'the {}.')
PREPROCESSOR = dict(type='vlm_dense.MixedSizeSegDataPreProcessor', mean=[0.0] * 3, std=[1.0] * 3)
SLIDE = dict(mode='slide', crop_size=(48, 48), stride=(32, 32), window_batch_size=3)


class GlobalPrompt(TextPrompt):
    """A prompt that depends on the image: the global feature is added to one vector a class."""

    image_conditioned = True

    def __init__(self, class_names, text_tower, init_cfg=None):
        super().__init__(class_names, text_tower, init_cfg)
        self.vectors = nn.Parameter(torch.randn(len(self.class_names), text_tower.embed_dim))

    def forward(self, text_tower, image_features=None):
        return self.vectors + image_features[:, None]

    def losses(self, class_embeddings):
        return dict(loss_small=class_embeddings.pow(2).mean())


def build(tower: str = 'vit', seed: int = 0, head: dict | None = None, **kwargs):
    torch.manual_seed(seed)
    backbone = BACKBONES[tower] | kwargs.pop('backbone', {})
    cfg = dict(
        type='vlm_dense.MaskCLIP',
        data_preprocessor=PREPROCESSOR,
        class_names=NAMES,
        backbone=backbone,
        text_encoder=dict(type='vlm_dense.TextTower', arch=backbone['arch']),
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=TEMPLATES),
        decode_head=head,
        test_cfg=dict(mode='whole'),
    )
    cfg.update(kwargs)
    model = MODELS.build(ConfigDict(cfg))
    torch.manual_seed(seed)  # heads of different size draw differently
    for name, value in model.state_dict().items():
        if value.ndim == 1:  # biases around 0; weights and variances of norms around 1
            value.normal_(float(not name.endswith(('bias', 'mean'))), 0.1)
        elif value.ndim > 1:
            value.normal_(0.0, value[0].numel() ** -0.5)
    return model.eval()


def samples(sizes, ori=None, **meta):
    out = []
    for i, (h, w) in enumerate(sizes):
        out.append(SegDataSample(metainfo=dict(img_shape=(h, w), ori_shape=ori[i] if ori else (h, w), **meta)))
    return out


def predict(model, images, *args, **kwargs):
    with torch.no_grad():
        return model.predict(images, samples([x.shape[1:] for x in images], *args, **kwargs))


def labels(sample) -> torch.Tensor:
    return sample.pred_sem_seg.data


# --- text -----------------------------------------------------------------------------------------------------


def test_the_85_templates_are_the_default():
    model = build(text_prompt=None)
    templates = model.decode_head.text_prompt.templates
    assert len(templates) == len(set(templates)) == 85
    assert templates[:2] == ('a bad photo of a {}.', 'a photo of many {}.')
    assert templates[80] == 'there is a {} in the scene.' and templates[84] == 'this is one {} in the scene.'


def test_text_is_encoded_once_a_class_list(monkeypatch):
    model = build(test_cfg=SLIDE)
    calls = []
    forward = type(model.decode_head.text_prompt).forward
    monkeypatch.setattr(type(model.decode_head.text_prompt), 'forward', lambda *a: calls.append(1) or forward(*a))
    images = torch.randn(2, 3, 64, 80)
    predict(model, images)
    predict(model, images)
    assert len(calls) == 1
    with torch.no_grad():
        for _ in range(2):
            model.predict_lists(images, samples([(64, 80)] * 2), [NAMES, ['sky', 'road'], MANY])
    assert len(calls) == 3


def test_loaded_weights_are_encoded_again():
    model, other = build(seed=0), build(seed=1)
    images = torch.randn(1, 3, 32, 32)
    predict(model, images)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(predict(model, images)[0].seg_logits.data, predict(other, images)[0].seg_logits.data)


def test_other_classes_can_be_set_and_equal_a_model_built_with_them():
    model, other = build(), build(class_names=['sky', 'road'])
    other.load_state_dict(model.state_dict())
    model.set_class_names(['sky', 'road'])
    images = torch.randn(1, 3, 32, 48)
    found = predict(model, images)[0].seg_logits.data
    assert model.num_classes == 2 and found.shape == (2, 32, 48)
    torch.testing.assert_close(found, predict(other, images)[0].seg_logits.data)


def test_names_that_cannot_be_used_leave_the_old_ones():
    model = build()
    for names in ([], ['sky', 'sky'], ['word ' * 100, 'sky']):
        with pytest.raises(ClassNamesError):
            model.set_class_names(names)
    assert model.decode_head.class_names == tuple((n,) for n in NAMES)
    assert predict(model, torch.randn(1, 3, 32, 32))[0].seg_logits.data.shape[0] == len(NAMES)


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (None, r'class_names are missing.*vlm-dense train'),
        ([], 'found an empty list'),
        (['sky', 'road', 'sky'], "'sky' is the name of class 0 and of class 2"),
        ([' '.join(['very'] * 100), 'road'], 'tokens'),
        (['sky'], r"'sky', would be everywhere\. Name what else the image shows, as in 'sky, background'\.$"),
    ],
)
def test_bad_class_names_are_refused(names, message):
    with pytest.raises(ClassNamesError, match=message):
        build(class_names=names)


def test_class_count_must_match():
    with pytest.raises(ClassNamesError, match='4 class names for num_classes=5'):
        build(head=dict(num_classes=5))


def test_towers_of_different_spaces_are_refused():
    with pytest.raises(ConfigError, match='32 and 48 dimensions'):
        build(text_encoder=dict(type='vlm_dense.TextTower', arch=dict(VIT, embed_dim=48)))


@pytest.mark.parametrize(('aliases', 'reduce'), [('max', torch.amax), ('mean', torch.mean)])
def test_aliases_give_the_maximum_or_the_mean_of_their_cosines(aliases, reduce):
    names = ['sky', 'sofa', 'couch', 'road']
    plain = build(class_names=names)
    model = build(class_names=['sky', ['sofa', 'couch'], 'road'], head=dict(aliases=aliases))
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        each, found = plain._forward(images), model._forward(images)
    wanted = torch.cat([each[:, :1], reduce(each[:, 1:3], dim=1, keepdim=True), each[:, 3:]], dim=1)
    torch.testing.assert_close(found, wanted)


def test_the_first_alias_alone_can_be_used():
    model = build(class_names=[['sofa', 'couch'], 'road'], head=dict(aliases='first'))
    assert model.decode_head.class_names == (('sofa',), ('road',))
    assert model.decode_head.text_prompt.class_names == ('sofa', 'road')


# --- background -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('ks', [0.0, 0.9])
def test_background_is_where_no_class_reaches_the_threshold(ks):
    plain = build(class_names=NAMES[1:], head=dict(ks_thresh=ks, scale=5.0))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        p = plain.decode_head.probabilities(plain._forward(images))
        thresh = p.amax(1).median().item()
        model = build(head=dict(ks_thresh=ks, scale=5.0, background=dict(thresh=thresh)))
        found = model._forward(images).argmax(1)
    wanted = torch.where(p.amax(1) < thresh, 0, p.argmax(1) + 1)
    assert (wanted == 0).any() and (wanted > 0).any()
    certain = (p.amax(1) - thresh).abs() > 1e-5
    assert torch.equal(found[certain], wanted[certain])


def test_background_may_be_a_list_of_names():
    model = build(class_names=NAMES, head=dict(aliases='mean', background=dict(names=['sky', 'road'])))
    assert model.decode_head.text_prompt.class_names == ('sky', 'road', *NAMES[1:])
    plain = build(class_names=['sky', 'road', *NAMES[1:]])
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        each, found = plain._forward(images), model._forward(images)
    torch.testing.assert_close(found, torch.cat([each[:, :2].amax(1, keepdim=True), each[:, 2:]], dim=1))


def test_the_background_may_stand_anywhere():
    names = ['circle', 'square', 'void']
    model = build(class_names=names, head=dict(background=dict(index=2, thresh=1.0)))
    assert model.decode_head.text_prompt.class_names == ('circle', 'square')
    assert (labels(predict(model, torch.randn(1, 3, 32, 32))[0]) == 2).all()


@pytest.mark.parametrize(
    'background',
    [dict(), dict(index=0), dict(thresh=0.0), dict(thresh=40), dict(treshold=0.4), dict(index=9, thresh=0.4)],
)
def test_a_background_that_cannot_be_is_refused(background):
    with pytest.raises(ConfigError, match='[bB]ackground'):
        build(head=dict(background=background))


def test_a_name_cannot_be_class_and_background():
    with pytest.raises(ClassNamesError, match="'circle' is the name of class 0 and of class 1"):
        build(head=dict(background=dict(names=['sky', 'circle'])))


# --- refinement -----------------------------------------------------------------------------------------------


def test_refinement_is_for_evaluation_only():
    model = build(
        head=dict(pd_thresh=0.9, ks_thresh=1.0), text_prompt=dict(type='vlm_dense.DenseCLIPPrompt', num_contexts=2)
    )
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        refined, trained = model._forward(images), model.train()._forward(images)
        plain = build(text_prompt=dict(type='vlm_dense.DenseCLIPPrompt', num_contexts=2))._forward(images)
    assert not torch.allclose(refined, plain)
    torch.testing.assert_close(trained, plain)


@pytest.mark.parametrize('ks_norm', ['position', 'channel'])
def test_smoothing_equals_the_product_with_the_similarity_of_keys(ks_norm):
    head = build(head=dict(ks_thresh=0.5, ks_norm=ks_norm, scale=8.0)).decode_head
    maps, key = torch.randn(2, 4, 3, 5) * 0.3, torch.randn(2, 15, 7)
    p = (8 * maps).softmax(1)
    k = F.normalize(key, dim=dict(position=1, channel=2)[ks_norm])
    wanted = p.clone()
    for b in range(2):
        similarity = k[b] @ k[b].T
        for i in range(15):
            y, x = divmod(i, 5)
            if p[b, :, y, x].max() < 0.5:
                wanted[b, :, y, x] = sum(similarity[i, j] * p[b, :, j // 5, j % 5] for j in range(15))
    assert not torch.equal(wanted, p)
    torch.testing.assert_close(head.refine(maps, key).values, wanted)


def test_smoothing_without_keys_is_refused():
    smoothing = dict(refinements=[dict(type='vlm_dense.KeySmoothing')])
    with pytest.raises(ConfigError, match='KeySmoothing needs keys, which MaskCLIPResNet does not give'):
        build('resnet', backbone=dict(attn_pooling=True), head=smoothing)
    attention = dict(type='vlm_dense.NACLIPAttention')
    with pytest.raises(ConfigError, match='KeySmoothing needs keys, which NACLIPAttention does not give'):
        build(backbone=dict(dense_attention=attention), head=smoothing)


@pytest.mark.parametrize('option', [dict(aliases='sum'), dict(ks_norm='row')])
def test_unknown_options_are_refused(option):
    with pytest.raises(ConfigError, match='must be one of'):
        build(head=option)


def test_variants_equal_models_with_those_options():
    options = dict(pd_thresh=0.5, ks_thresh=1.0)
    model = build(variants=dict(refined=options, random=dict(random_text=3)), head=dict(scale=20.0))
    plain, refined, random = (build(head=dict(scale=20.0) | o) for o in ({}, options, dict(random_text=3)))
    images = torch.randn(2, 3, 48, 64)
    for sample, a, b, c in zip(*(predict(m, images) for m in (model, plain, refined, random)), strict=True):
        assert torch.equal(labels(sample), labels(a))
        assert torch.equal(sample.pred_refined.data, labels(b)) and not torch.equal(labels(a), labels(b))
        assert torch.equal(sample.pred_random.data, labels(c)) and not torch.equal(labels(a), labels(c))


def test_a_variant_of_something_else_is_refused():
    with pytest.raises(ConfigError, match="'class_names'"):
        build(variants=dict(other=dict(class_names=['sky'])))


# --- inference ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('test_cfg', [dict(mode='whole'), SLIDE], ids=['whole', 'slide'])
@pytest.mark.parametrize('pamr', [None, dict(iterations=2, dilations=(1, 3))], ids=['', 'pamr'])
@pytest.mark.parametrize('thresh', [None, 0.3], ids=['', 'threshold'])
def test_label_maps_without_logits_equal_the_argmax_of_the_logits(test_cfg, pamr, thresh):
    background = thresh and dict(index=1, thresh=thresh)
    options = dict(class_names=MANY, pamr=pamr, head=dict(background=background, scale=20.0, random_text=1))
    keep, spare = (build(test_cfg=dict(test_cfg, keep_logits=k), **options) for k in (True, False))
    noise = torch.randn(2, 3, 3, 4, generator=torch.Generator().manual_seed(142))
    images, meta = F.interpolate(20 * noise, (70, 96)), dict(ori=[(25, 11), (18, 24)], flip=True)
    for a, b in zip(*(predict(m, images, **meta, flip_direction='horizontal') for m in (keep, spare)), strict=True):
        assert margin(a.seg_logits.data) > MARGIN
        assert a.seg_logits.data.shape[0] == len(MANY) and 'seg_logits' not in b
        assert torch.equal(labels(a), a.seg_logits.data.argmax(0, keepdim=True))
        assert torch.equal(labels(a), labels(b)) and len(labels(a).unique()) > 1


@pytest.mark.parametrize('tower', ['vit', 'resnet'])
@pytest.mark.parametrize('keep', [True, False])
@pytest.mark.parametrize('mode', [dict(mode='whole'), SLIDE], ids=['whole', 'slide'])
def test_images_of_different_size_in_a_batch_equal_those_alone(tower, keep, mode):
    model = build(tower, test_cfg=dict(mode, keep_logits=keep), head=dict(ks_thresh=0.5, pd_thresh=0.1))
    sizes = [(64, 80), (40, 33), (64, 80), (7, 90)]
    images = [torch.randn(3, *s) * 40 for s in sizes]
    data = model.data_preprocessor(dict(inputs=[x.clone() for x in images], data_samples=samples(sizes)))
    with torch.no_grad():
        together = model.predict(**data)
    for image, size, found in zip(images, sizes, together, strict=True):
        alone = predict(model, image[None])[0]
        assert labels(found).shape == (1, *size) and torch.equal(labels(found), labels(alone))


@pytest.mark.parametrize('tower', ['vit', 'resnet'])
@pytest.mark.parametrize('size', [(1, 1), (5, 9), (15, 40), (31, 33)])
def test_images_smaller_than_a_patch(tower, size):
    model = build(tower, head=dict(ks_thresh=1.0))
    found = predict(model, torch.randn(1, 3, *size))[0]
    assert found.seg_logits.data.shape == (4, *size) and torch.isfinite(found.seg_logits.data).all()


@pytest.mark.parametrize('tower', ['vit', 'resnet'])
def test_an_image_of_8000_by_200_px(tower):
    model = build(tower, test_cfg=dict(mode='whole', keep_logits=False), head=dict(ks_thresh=1.0))
    assert labels(predict(model, torch.randn(1, 3, 200, 8000))[0]).shape == (1, 200, 8000)


def test_several_class_lists_share_the_image_features(monkeypatch):
    model = build(test_cfg=dict(SLIDE, keep_logits=False), pamr=dict(iterations=1, dilations=(1,)))
    lists = [NAMES, ['sky', ['road', 'street']], MANY]
    images = torch.randn(2, 3, 64, 64)
    wanted = []
    for names in lists:
        one = copy.deepcopy(model)
        one.set_class_names(names)
        wanted.append(predict(one, images))
    calls = []
    encode = model.backbone.encode
    monkeypatch.setattr(model.backbone, 'encode', lambda x, *args: calls.append(len(x)) or encode(x, *args))
    with torch.no_grad():
        found = model.predict_lists(images, samples([(64, 64)] * 2), lists)
    assert sum(calls) == 2 * 4  # windows
    for a, b in zip(found, wanted, strict=True):
        assert all(torch.equal(labels(x), labels(y)) for x, y in zip(a, b, strict=True))


def test_the_head_works_in_mmsegs_own_segmentor():
    model = build(head=dict(ks_thresh=0.5))
    cfg = dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(BACKBONES['vit']),
        decode_head=dict(
            type='vlm_dense.MaskCLIPHead',
            class_names=NAMES,
            text_encoder=dict(type='vlm_dense.TextTower', arch=VIT),
            text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=TEMPLATES),
            ks_thresh=0.5,
        ),
        test_cfg=dict(mode='whole'),
    )
    plain = MODELS.build(ConfigDict(cfg)).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 48, 48)
    for a, b in zip(predict(model, images), predict(plain, images), strict=True):
        torch.testing.assert_close(a.seg_logits.data, b.seg_logits.data)


# --- towers and training --------------------------------------------------------------------------------------


def test_a_foreign_backbone_is_refused():
    cfg = dict(type='vlm_dense.MaskCLIP', class_names=NAMES, text_encoder=dict(type='vlm_dense.TextTower', arch=VIT))
    with pytest.raises(ConfigError, match='MaskCLIPViT.*found ResNet'):
        MODELS.build(ConfigDict(cfg, backbone=dict(type='mmseg.ResNet', depth=18)))


@pytest.mark.parametrize('tower', ['vit', 'resnet'])
def test_the_towers_are_frozen_and_stay_in_eval_mode(tower):
    model = build(tower).train()
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(m.training for m in model.backbone.modules())
    assert not any(m.training for m in model.decode_head.text_encoder.modules())


def test_plain_towers_do_as_well():
    own = dict(act='gelu', ln_eps=1e-6, pos_mode='bicubic')
    plain = build(backbone=dict(type='vlm_dense.CLIPViT', head=True, **own))
    images = torch.randn(1, 3, 48, 32)
    torch.testing.assert_close(plain._forward(images), build()._forward(images))


def train_step(model, images):
    gt = [PixelData(data=torch.randint(0, len(NAMES), (1, *images.shape[2:]))) for _ in images]
    batch = samples([x.shape[1:] for x in images])
    for sample, data in zip(batch, gt, strict=True):
        sample.gt_sem_seg = data
    losses = model.loss(images, batch)
    total, _ = model.parse_losses(losses)
    total.backward()
    return losses


def test_a_prompt_that_learns_gets_gradients_and_keeps_what_it_learned_for_other_classes():
    model = build(text_prompt=dict(type='vlm_dense.DenseCLIPPrompt', num_contexts=2, name_length=6)).train()
    losses = train_step(model, torch.randn(2, 3, 32, 32))
    assert set(losses) == {'decode.loss_ce', 'decode.acc_seg'}
    prompt = model.decode_head.text_prompt
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ['decode_head.text_prompt.contexts']
    assert prompt.contexts.grad.abs().max() > 0
    with torch.no_grad():
        prompt.contexts.fill_(0.7)
    model.eval().set_class_names(['sky', 'road'])
    assert (model.decode_head.text_prompt.contexts == 0.7).all()


def test_a_prompt_that_depends_on_the_image_gets_its_global_feature():
    MODELS.register_module(name='GlobalPrompt', module=GlobalPrompt, force=True)
    model = build(text_prompt=dict(type='vlm_dense.GlobalPrompt')).train()
    losses = train_step(model, torch.randn(2, 3, 32, 32))
    assert losses['decode.prompt.loss_small'] > 0 and model.decode_head.text_prompt.vectors.grad.abs().max() > 0
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features = model.eval().backbone.encode(images, ('value', 'global'))
        text = F.normalize(model.decode_head.text_prompt.vectors + features.global_[:, None], dim=-1)
        wanted = torch.einsum('bdhw,bkd->bkhw', F.normalize(features.value, dim=1), text)
        torch.testing.assert_close(model._forward(images), wanted)
    with pytest.raises(ClassNamesError, match='GlobalPrompt has learned something for each of its 4 classes'):
        model.set_class_names(['sky', 'road'])
    with pytest.raises(ConfigError, match="features=.'value', 'global'."):
        model.decode_head(ImageFeatures(value=features.value))


# --- files of the release -------------------------------------------------------------------------------------


def published_vit(tower) -> tuple[dict, dict]:
    names = dict(class_embedding='cls_token', positional_embedding='pos_embed')
    state = {}
    for key, value in tower.state_dict().items():
        new = names.get(key, key).replace('conv1.', 'patch_embed.projection.').replace('ln_pre', 'ln0')
        new = new.replace('ln_post', 'ln1').replace('transformer.resblocks', 'layers').replace('.attn.', '.attn.attn.')
        new = new.replace('ln_1', 'ln1').replace('ln_2', 'ln2')
        new = new.replace('mlp.c_fc', 'ffn.layers.0.0').replace('mlp.c_proj', 'ffn.layers.1')
        state[new] = value
    proj = state.pop('proj').T.clone()
    state['cls_token'], state['pos_embed'] = state['cls_token'][None, None], state['pos_embed'][None]
    backbone = dict(meta={}, state_dict={f'backbone.{k}': v for k, v in state.items()})
    return backbone, dict(clip=state, proj=dict(weight=proj))


def published_resnet(tower) -> tuple[dict, dict]:
    stem = dict(conv1='0', bn1='1', conv2='3', bn2='4', conv3='6', bn3='7')
    state, projs = {}, {}
    for key, value in tower.state_dict().items():
        first, _, rest = key.partition('.')
        if first == 'attnpool':
            layer, _, leaf = rest.partition('.')
            if leaf:
                projs.setdefault(layer, {})[leaf] = value
        elif first in stem:
            state[f'stem.{stem[first]}.{rest}'] = value
        else:
            state[key.replace('downsample.1', 'downsample.2').replace('downsample.0', 'downsample.1')] = value
    backbone = dict(meta={}, state_dict={f'backbone.{k}': v for k, v in state.items()})
    return backbone, dict(clip=state, **projs)


@pytest.mark.parametrize(('tower', 'convert'), [('vit', published_vit), ('resnet', published_resnet)])
def test_the_released_backbone_files_load(tower, convert, tmp_path):
    original = build(tower, seed=5).backbone
    paths = [str(tmp_path / name) for name in ('backbone.pth', 'weights.pth')]
    for content, path in zip(convert(original), paths, strict=True):
        torch.save(content, path)
    loaded = MODELS.build(dict(BACKBONES[tower], pretrained=paths[0], visual_projs_path=paths[1])).eval()
    images = torch.randn(1, 3, 64, 64)
    a, b = (t.encode(images, ('value',)) for t in (original, loaded))
    torch.testing.assert_close(a.value, b.value)
    torch.testing.assert_close(a.key, b.key)
    if tower == 'resnet':
        with pytest.raises(ConfigError, match="lack the attention pool's positions"):
            loaded.encode(images, ('global',))


def test_files_of_another_layout_are_refused(tmp_path):
    backbone, projs = published_vit(build().backbone)
    paths = [str(tmp_path / name) for name in ('backbone.pth', 'weights.pth')]
    cfg = dict(BACKBONES['vit'], pretrained=paths[0], visual_projs_path=paths[1])
    with pytest.raises(WeightsNotFoundError, match=r'backbone\.pth'):
        MODELS.build(cfg)
    torch.save(backbone, paths[0])
    torch.save(dict(projs, proj=projs['proj']['weight']), paths[1])
    with pytest.raises(CheckpointError, match=r"holds neither 'proj' nor"):
        MODELS.build(cfg)
    torch.save(projs, paths[1])
    torch.save(backbone['state_dict'], paths[0])
    with pytest.raises(CheckpointError, match='no backbone file of MaskCLIP'):
        MODELS.build(cfg)
    del backbone['state_dict']['backbone.layers.1.ln1.weight']
    torch.save(backbone, paths[0])
    with pytest.raises(CheckpointError, match=r'1 missing: transformer\.resblocks\.1\.ln_1\.weight'):
        MODELS.build(cfg)
    with pytest.raises(ConfigError, match='name the backbone file'):
        MODELS.build(dict(cfg, pretrained=None))


def test_the_released_text_file_takes_the_place_of_the_text_tower(tmp_path):
    model = build()
    path = str(tmp_path / 'text.pth')
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.save(model.decode_head.embed_classes().half(), path)
        filed = build(text_encoder=None, text_prompt=None, head=dict(text_embeddings_path=path))
        torch.testing.assert_close(filed._forward(images), model._forward(images), rtol=1e-2, atol=1e-3)
    with pytest.raises(ClassNamesError, match='text_embeddings_path'):
        filed.set_class_names(['sky', 'road'])


def test_class_list_and_text_file_of_different_length_are_refused(tmp_path):
    path = str(tmp_path / 'text.pth')
    torch.save(torch.randn(5, 32), path)
    with pytest.raises(ClassNamesError, match=r'text\.pth holds the embeddings of 5 names, but there are 4'):
        build(text_encoder=None, text_prompt=None, head=dict(text_embeddings_path=path))
    torch.save(dict(text=torch.randn(4, 32)), path)
    with pytest.raises(CheckpointError, match='no text file'):
        build(text_encoder=None, text_prompt=None, head=dict(text_embeddings_path=path))
    with pytest.raises(ConfigError, match='either text_encoder or text_embeddings_path'):
        build(head=dict(text_embeddings_path=path))
