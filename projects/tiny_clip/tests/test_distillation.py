"""Training of an image tower to the text tower of a bundled model."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from tiny_clip.distillation import CaptionDistillation, SigmoidDistillation
from tiny_clip.pretraining import CaptionPretraining, export

from vlm_dense.clip.loading import load_clip
from vlm_dense.datasets import scenes


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return CaptionDistillation('tiny-vit', bfloat16=False).train()


def test_only_the_image_tower_is_trained_and_the_text_tower_is_the_teachers(model):
    present = torch.eye(len(scenes.PAIRS))[[0, 9]]
    sum(model.loss(torch.randn(2, 3, 64, 64), present).values()).backward()
    for name, parameter in model.clip.named_parameters():
        assert (parameter.grad is not None) == name.startswith('visual.'), name
    teacher = load_clip('tiny-rn', 'bundled')
    assert torch.equal(model.clip.text_projection, teacher.text_projection)
    assert not any('teacher' in key for key in model.state_dict())


def test_classifiers_hold_one_unit_embedding_a_caption_and_match_the_teachers_images(model):
    for name, vocabulary in model.vocabularies.items():
        classifier = model.classifiers[name]
        assert len(classifier) == len(vocabulary.captions)
        torch.testing.assert_close(classifier.norm(dim=1), torch.ones(len(classifier)))
    images, wanted = [], torch.arange(0, 64, 4)
    for index in wanted.tolist():
        image = scenes.draw_scene(f'{index}', (64, 64), (1, 1), 'source', [scenes.PAIRS[index]]).image
        images.append(torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float())
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([104.094, 116.746, 122.771], [70.323, 66.632, 68.501]))
    features = model.teacher[0].encode(((torch.stack(images) - mean) / std)[:, [2, 1, 0]], ('global',)).global_
    found = (features @ model.classifiers['pair'][:64].T).argmax(1)
    assert (found == wanted).float().mean() > 0.9


def test_patches_meet_the_teachers_of_their_area():
    """A ConvNeXt's map of stride 32 and the mean of tiny-vit's 4 x 4 patches there."""
    torch.manual_seed(0)
    arch = dict(
        embed_dim=128,
        quick_gelu=True,
        vision_cfg=dict(image_size=64, timm_model_name='convnext_zepto_rms', timm_pool='', timm_proj='linear'),
        text_cfg=dict(context_length=77, vocab_size=49408, width=128, heads=2, layers=3),
    )
    own = CaptionDistillation(arch, 'tiny-vit', patch_weight=2.0, bfloat16=False).train()
    images, present = torch.randn(2, 3, 64, 96), torch.eye(len(scenes.PAIRS))[[0, 9]]
    losses = own.loss(images, present)
    dense = own.tower[0].encode(images, ('dense',)).dense
    value = F.normalize(own.teacher[0].encode(images, ('value',)).value, dim=1)
    assert dense.shape[2:] == (2, 3) and value.shape[2:] == (8, 12)
    goal = value.unflatten(3, (3, 4)).unflatten(2, (2, 4)).mean((3, 5))
    wanted = 2 * (1 - (F.normalize(dense, dim=1) * F.normalize(goal, dim=1)).sum(1)).mean()
    torch.testing.assert_close(losses['loss_patches'], wanted, rtol=1e-4, atol=1e-6)
    sum(losses.values()).backward()
    for name, parameter in own.clip.named_parameters():
        assert (parameter.grad is not None) == name.startswith('visual.'), name


def test_a_second_stage_begins_with_the_weights_that_the_first_wrote(tmp_path):
    torch.manual_seed(0)
    first = CaptionPretraining('tiny-convnext')
    export(first, tmp_path / 'first.safetensors')
    second = CaptionDistillation('tiny-convnext', teacher='tiny-vit', pretrained=str(tmp_path / 'first.safetensors'))
    for name, value in first.clip.state_dict().items():
        torch.testing.assert_close(second.clip.state_dict()[name], value, rtol=1e-3, atol=1e-6)
    assert (
        second.tower[0].trunk.stages[0].blocks[0].conv_dw.weight
        is second.clip.visual.trunk.stages[0].blocks[0].conv_dw.weight
    )


def test_a_siglip_begins_with_the_blocks_of_a_vit_and_both_its_towers_learn():
    torch.manual_seed(0)
    own = SigmoidDistillation('tiny-siglip', start='tiny-vit', teacher='tiny-vit', patch_weight=1.0, bfloat16=False)
    vit, trunk = load_clip('tiny-vit', 'bundled').visual, own.clip.visual.trunk
    images = torch.stack([torch.from_numpy(scenes.draw_scene(f'{i}', (64, 64), (1, 1)).image) for i in range(8)])
    images = (images.permute(0, 3, 1, 2).float() - 115) / 68
    with torch.no_grad():
        theirs = vit.ln_pre(vit.conv1(images).flatten(2).mT + vit.positional_embedding[1:])
        ours = trunk._pos_embed(trunk.patch_embed(images))
    assert F.cosine_similarity(ours, theirs, dim=-1).min() > 0.95
    assert torch.equal(trunk.blocks[2].attn.qkv.weight, vit.transformer.resblocks[2].attn.in_proj_weight)
    present = torch.eye(len(scenes.PAIRS))[[0, 9]]
    losses = own.train().loss(torch.randn(2, 3, 64, 64), present)
    assert set(losses) == {'loss_sigmoid', 'loss_text', 'loss_teacher', 'loss_patches'}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in own.clip.parameters())


def test_the_sigmoid_loss_is_that_of_the_formula():
    torch.manual_seed(0)
    own = SigmoidDistillation('tiny-siglip', teacher='tiny-vit', sigmoid_weight=0.5, bfloat16=False)
    image, present = F.normalize(torch.randn(2, 128), dim=-1), torch.eye(len(scenes.PAIRS))[[0, 9]]
    random.seed(3)
    found = own.caption_losses(image, present)['loss_sigmoid']
    random.seed(3)
    wanted = 0.0
    for vocabulary in own.vocabularies.values():
        texts = own.encode_captions([random.choice(c) for c in vocabulary.captions])
        true = vocabulary.targets(present) > 0
        for b in range(2):
            for k, text in enumerate(texts):
                logit = own.clip.logit_scale.exp() * image[b] @ text + own.clip.logit_bias
                wanted -= 0.5 / 2 * F.logsigmoid(logit if true[b, k] else -logit)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
