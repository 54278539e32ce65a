"""Prompts of the image tower and of both towers: releases load, segmentors train with them, what cannot be is named."""

from __future__ import annotations

import pytest
import torch
from mmengine import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from segmentation.small_heads import fpn_head
from tiny_towers import vit

from vlm_dense.clip.image_tower import PromptTokens
from vlm_dense.errors import CheckpointError, ConfigError, DataError
from vlm_dense.registry import MODELS, build_part

NAMES = ['background', 'circle', 'red star']
ARCH = vit(text=dict(width=24, layers=3), layers=4)
RESNET = dict(ARCH, vision_cfg=dict(image_size=32, layers=[1, 1, 1, 1], width=8, head_width=32))


@pytest.fixture(scope='module')
def towers() -> dict:
    torch.manual_seed(0)
    return dict(
        text_tower=MODELS.build(dict(type='vlm_dense.TextTower', arch=ARCH)),
        image_tower=MODELS.build(dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True)),
    )


def build(towers: dict, type: str, **kwargs):  # noqa: A002
    return build_part(dict(type=f'vlm_dense.{type}', **kwargs), class_names=NAMES, **towers)


# --- releases ---------------------------------------------------------------------------------------------------------


def release(path, weights: dict) -> str:
    """A whole model as Dassl saves it: the prompts, what follows from names, and CLIP."""
    clip = {
        'image_encoder.conv1.weight': torch.zeros(32, 3, 8, 8),
        'text_encoder.ln_final.weight': torch.ones(24),
        'logit_scale': torch.tensor(4.6),
        'prompt_learner.token_prefix': torch.zeros(9, 1, 24),
        'prompt_learner.token_suffix': torch.zeros(9, 60, 24),
    }
    torch.save(dict(state_dict={f'module.{k}': v for k, v in {**clip, **weights}.items()}, epoch=5), path)
    return str(path)


def test_maple_of_the_release_loads(towers, tmp_path):
    weights = dict(ctx=torch.randn(2, 24))
    weights.update({'proj.weight': torch.randn(32, 24), 'proj.bias': torch.randn(32)})
    weights['compound_prompts_text.0'] = torch.randn(2, 24)
    weights['compound_prompt_projections.0.weight'] = torch.randn(32, 24)
    weights['compound_prompt_projections.0.bias'] = torch.randn(32)
    path = release(tmp_path / 'model.pth.tar-5', {f'prompt_learner.{k}': v for k, v in weights.items()})
    prompt = build(towers, 'MaPLePrompt', depth=2, pretrained=path)
    assert torch.equal(prompt.ctx, weights['ctx'])
    assert torch.equal(prompt.deep[0], weights['compound_prompts_text.0'])
    tokens = prompt.prompt(torch.zeros(1, 3, 32, 32))[1]
    torch.testing.assert_close(tokens.first, weights['ctx'] @ weights['proj.weight'].T + weights['proj.bias'])
    later = weights['compound_prompts_text.0'] @ weights['compound_prompt_projections.0.weight'].T
    torch.testing.assert_close(tokens.deep[0], later + weights['compound_prompt_projections.0.bias'])
    with pytest.raises(CheckpointError, match=r'missing: deep.1'):
        build(towers, 'MaPLePrompt', depth=3, pretrained=path)
    with pytest.raises(CheckpointError, match=r'expected \(4, 24\), found \(2, 24\)'):
        build(towers, 'MaPLePrompt', depth=2, num_contexts=4, pretrained=path)


def test_ivlp_and_deep_text_of_the_release_load(towers, tmp_path):
    text = {
        'prompt_learner.ctx': torch.randn(2, 24),
        'text_encoder.transformer.resblocks.1.VPT_shallow': torch.randn(2, 24),
        'text_encoder.transformer.resblocks.2.VPT_shallow': torch.randn(2, 24),
    }
    image = {
        'image_encoder.VPT': torch.randn(3, 32),
        'image_encoder.transformer.resblocks.1.VPT_shallow': torch.randn(3, 32),
    }
    sizes = dict(num_contexts=2, depth=12)  # more blocks than there are
    deep = build(towers, 'DeepTextPrompt', pretrained=release(tmp_path / 'text.pth', text), **sizes)
    path = release(tmp_path / 'both.pth', {**text, **image})
    both = build(towers, 'IVLPPrompt', num_tokens=3, visual_depth=2, pretrained=path, **sizes)
    for prompt in (deep, both):
        assert torch.equal(prompt.ctx, text['prompt_learner.ctx'])
        for block in (1, 2):
            wanted = text[f'text_encoder.transformer.resblocks.{block}.VPT_shallow']
            assert torch.equal(prompt.deep[block - 1], wanted)
    tokens = both.prompt(torch.zeros(1, 3, 32, 32))[1]
    assert torch.equal(tokens.first, image['image_encoder.VPT'])
    assert torch.equal(tokens.deep[0], image['image_encoder.transformer.resblocks.1.VPT_shallow'])
    with pytest.raises(CheckpointError, match='unexpected: visual.first'):
        build(towers, 'IVLPPrompt', visual_depth=0, pretrained=path, **sizes)


def test_vpt_of_each_release_loads(towers, tmp_path):
    tokens = torch.randn(4, 3, 32)
    maple = {'image_encoder.VPT': tokens[0]}
    maple.update({f'image_encoder.transformer.resblocks.{i}.VPT_shallow': tokens[i] for i in (1, 2, 3)})
    upt = {'visual_ctx': torch.stack([tokens[t % 4, t // 4] for t in range(12)])}
    dpt = {'image_encoder.transformer.ctx_learner.ctx': tokens}
    for name, weights in dict(maple=maple, upt=upt, dpt=dpt).items():
        path = release(tmp_path / f'{name}.pth', weights)
        prompt = build(towers, 'VPTPrompt', num_tokens=3, depth=12, pretrained=path)
        assert torch.equal(torch.stack([prompt.first, *prompt.deep]), tokens), name
    with pytest.raises(CheckpointError, match='This VPTPrompt has 3 tokens of 32 channels for each of 2 blocks'):
        build(towers, 'VPTPrompt', num_tokens=3, depth=2, pretrained=path)


def test_vp_of_the_release_loads_and_is_added_where_it_belongs(towers, tmp_path):
    torch.save(dict(state_dict=dict(patch=torch.ones(1, 3, 4, 4)), epoch=3, best_acc1=0.5), tmp_path / 'best.pth')
    sizes = dict(prompt_size=4, image_size=32)
    images = torch.zeros(2, 3, 32, 32)
    fixed = build(towers, 'VPPrompt', kind='fixed_patch', pretrained=str(tmp_path / 'best.pth'), **sizes)
    wanted = images.clone()
    wanted[:, :, :4, :4] = 1
    assert torch.equal(fixed.prompt(images)[0], wanted)
    moving = build(towers, 'VPPrompt', kind='random_patch', pretrained=str(tmp_path / 'best.pth'), **sizes)
    places = set()
    for _ in range(400):
        changed = moving.eval().prompt(images)[0]
        rows, columns = changed[0, 0].nonzero().T
        assert len(rows) == 16 and torch.equal(changed[0], changed[1])
        places |= {('row', int(rows.min())), ('column', int(columns.min()))}
    assert places == {(axis, i) for axis in ('row', 'column') for i in range(28)}  # 28 would fit and is never drawn
    with pytest.raises(DataError, match='32 x 32 px, found 40 x 32'):
        fixed.prompt(torch.zeros(1, 3, 40, 32))


# --- tokens in the tower ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('place', ['end', 'front'])
@pytest.mark.parametrize('through_ln_pre', [True, False])
def test_deep_tokens_are_what_the_paper_draws(towers, place, through_ln_pre):
    """Against the tower written out block by block."""
    tower = towers['image_tower']
    prompt = build(towers, 'VPTPrompt', num_tokens=2, depth=3, std=1.0, place=place, through_ln_pre=through_ln_pre)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = tower.encode(*prompt.prompt(images)[:1], ('global',), prompt.tokens()).global_
        x, _ = tower.embed(images)
        own = [t.expand(2, -1, -1) for t in (prompt.first, *prompt.deep)]

        def put(x, tokens):
            return torch.cat([x, tokens] if place == 'end' else [x[:, :1], tokens, x[:, 1:]], dim=1)

        def taken_out(x):
            return x[:, :-2] if place == 'end' else torch.cat([x[:, :1], x[:, 3:]], dim=1)

        x = tower.ln_pre(put(x, own[0])) if through_ln_pre else put(tower.ln_pre(x), own[0])
        for index, block in enumerate(tower.transformer.resblocks):
            if 1 <= index < 3:
                x = put(taken_out(x), own[index])
            x = block(x)
        torch.testing.assert_close(found, tower.ln_post(x[:, 0]) @ tower.proj)


def test_recomputed_activations_give_the_same_gradients_in_a_frozen_tower():
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = MODELS.build(
            dict(
                type='vlm_dense.CLIPClassifier',
                backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True, with_cp=with_cp),
                text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
                text_prompt=dict(type='vlm_dense.IVLPPrompt', num_contexts=2),
                class_names=NAMES,
            )
        ).train()
        calls = []
        model.backbone.transformer.resblocks[1].ln_1.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        model(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))).sum().backward()
        assert len(calls) == 1 + with_cp
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


@pytest.mark.parametrize('kind', ['MaPLePrompt', 'IVLPPrompt', 'DeepTextPrompt'])
def test_mixed_precision_changes_the_loss_by_rounding_only(kind):
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='vlm_dense.CLIPClassifier',
            backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True),
            text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
            text_prompt=dict(type=f'vlm_dense.{kind}'),
            class_names=NAMES,
        )
    ).train()
    images = torch.randn(4, 3, 32, 32)
    model.text_encoder.logit_scale.zero_()
    exact = model(images)
    with torch.autocast('cpu', torch.bfloat16):
        rounded = model(images)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.03)
    rounded.logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.text_prompt.parameters())


# --- segmentors -------------------------------------------------------------------------------------------------------


def denseclip(**kwargs) -> torch.nn.Module:
    cfg = dict(
        type='vlm_dense.DenseCLIP',
        class_names=NAMES,
        backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True, pyramid=True, frozen_stages=4),
        text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH, context_length=24),
        text_prompt=dict(type='vlm_dense.DenseCLIPPrompt', num_contexts=2),
        neck=dict(type='mmseg.FPN', in_channels=[32, 32 + len(NAMES), 32, 32], out_channels=8, num_outs=4),
        decode_head=fpn_head(len(NAMES), 8),
        score_concat_index=1,
        test_cfg=dict(mode='whole'),
    )
    return MODELS.build(ConfigDict(cfg | kwargs))


@pytest.mark.parametrize(
    'parts',
    [
        dict(image_prompt=dict(type='vlm_dense.VPTPrompt', num_tokens=2, depth=4)),
        dict(image_prompt=dict(type='vlm_dense.VPPrompt', prompt_size=4, image_size=32)),
        dict(text_prompt=dict(type='vlm_dense.MaPLePrompt', depth=3)),
        dict(text_prompt=dict(type='vlm_dense.IVLPPrompt', num_contexts=2)),
        dict(text_prompt=dict(type='vlm_dense.DeepTextPrompt')),
    ],
    ids=['vpt_deep', 'vp', 'maple', 'ivlp', 'deep_text'],
)
def test_prompts_train_in_a_denseclip_vit(parts):
    model = denseclip(**parts).train()
    prompts = [p for name, p in model.named_parameters() if 'prompt.' in name]
    blocks = {k: v.clone() for k, v in model.backbone.transformer.state_dict().items()}
    before = [p.detach().clone() for p in prompts]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 3, (1, 32, 32))))
    sample.set_metainfo(dict(img_shape=(32, 32), ori_shape=(32, 32)))
    images, samples = torch.randn(2, 3, 32, 32), [sample, sample]
    model.parse_losses(model.loss(images, samples))[0].backward()
    optimizer.step()
    assert prompts and all(not torch.equal(p, old) for p, old in zip(prompts, before, strict=True))
    assert all(torch.equal(v, blocks[k]) for k, v in model.backbone.transformer.state_dict().items())
    model.eval()
    with torch.no_grad():
        assert model.encode_decode(images, [dict(img_shape=(32, 32))] * 2).shape == (2, 3, 32, 32)


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_named(towers):
    resnet = dict(towers, image_tower=MODELS.build(dict(type='vlm_dense.CLIPResNet', arch=RESNET, attnpool=True)))
    for kind in ('VPTPrompt', 'MaPLePrompt', 'IVLPPrompt'):
        with pytest.raises(ConfigError, match='only a ViT takes.*found CLIPResNet'):
            build(resnet, kind)
    with pytest.raises(ConfigError, match="place must be 'end' or 'front', found 'middle'"):
        build(towers, 'VPTPrompt', place='middle')
    with pytest.raises(ConfigError, match='at least 1, found 0'):
        build(towers, 'VPTPrompt', depth=0)
    with pytest.raises(ConfigError, match='num_tokens must be at least 1'):
        build(towers, 'VPTPrompt', num_tokens=0)
    with pytest.raises(ConfigError, match="kind must be one of .*found 'frame'"):
        build(towers, 'VPPrompt', kind='frame')
    with pytest.raises(ConfigError, match='a padding of 17 px does not fit images of 32 px'):
        build(towers, 'VPPrompt', prompt_size=17, image_size=32)
    with pytest.raises(ConfigError, match='prompt tokens'):
        resnet['image_tower'].encode(torch.zeros(1, 3, 32, 32), ('global',), PromptTokens(torch.zeros(1, 32)))
    with pytest.raises(ConfigError, match='as many as there are words'):
        build(towers, 'MaPLePrompt', num_contexts=5)
