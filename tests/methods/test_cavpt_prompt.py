"""CAVPT beyond the official figures: several upper blocks, its losses, releases, segmentors, what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from methods.test_image_prompts import ARCH, NAMES, RESNET, build, denseclip, release
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from vlm_dense.classification import ClsDataSample
from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.contract.roles import Step
from vlm_dense.errors import CheckpointError, ClassNamesError, ConfigError
from vlm_dense.registry import MODELS


@pytest.fixture(scope='module')
def towers() -> dict:
    torch.manual_seed(0)
    return dict(
        text_tower=MODELS.build(dict(type='vlm_dense.TextTower', arch=ARCH)),
        image_tower=MODELS.build(dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True)),
    )


def classifier(loss=None, **kwargs):
    torch.manual_seed(0)
    return MODELS.build(
        dict(
            type='vlm_dense.CLIPClassifier',
            backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True),
            text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
            text_prompt=dict(type='vlm_dense.CAVPTPrompt', **dict(dict(num_contexts=2, num_tokens=3), **kwargs)),
            loss=dict(type='vlm_dense.CAVPTLoss', **(loss or {})),
            class_names=NAMES,
        )
    )


def samples(*labels: int) -> list:
    return [ClsDataSample().set_label(label) for label in labels]


def by_hand(model, images) -> torch.Tensor:
    """The tower written out block by block, image features (B, D)."""
    prompt, tower = model.text_prompt, model.backbone
    text = prompt(model.text_encoder)
    sentences = model.text_encoder.tokenize([f'a photo of a {name}.' for name in NAMES])
    written = F.normalize(model.text_encoder.encode_tokens(sentences), dim=-1)
    similarity = F.normalize(tower.encode(images, ('global',)).global_, dim=-1) @ written.T
    likely = similarity.argsort(dim=1, descending=True)[:, : prompt.likely]
    x = tower.ln_pre(tower.embed(images)[0])
    length = x.shape[1]
    for index, block in enumerate(tower.transformer.resblocks):
        upper = index - len(prompt.tokens)
        if upper < 0:
            tokens = prompt.tokens[index].expand(len(x), -1, -1)
        else:
            part = prompt.upper[upper]
            queries = text[likely] @ part.query.weight.T + part.query.bias
            memory = torch.cat([x, part.memory.expand(len(x), -1, -1)], dim=1)
            attention = part.attention
            scores = (queries @ attention.qmlp.weight.T) @ (memory @ attention.kmlp.weight.T).transpose(1, 2)
            read = ((scores / 32**0.5).softmax(-1) @ memory) @ attention.vmlp.weight.T
            tokens = part.norm_out(read + queries)
        x = block(torch.cat([x, tokens], dim=1))[:, :length]
    return tower.ln_post(x[:, 0]) @ tower.proj


@pytest.mark.parametrize('lower', [0, 1, 2, 3])
def test_several_upper_blocks_make_tokens_of_their_own(lower):
    model = classifier(lower_blocks=lower, likely=2, std=0.5).eval()
    images = torch.randn(2, 3, 32, 32)
    assert len(model.text_prompt.upper) == 4 - lower
    with torch.no_grad():
        features = model.text_side.encode(model.backbone, images, ('global',))[0]
        torch.testing.assert_close(features.global_, by_hand(model, images), rtol=1e-4, atol=1e-4)
    assert [logits.shape for logits in features.prompts.class_logits] == (4 - lower) * [(2, 2, 3)]


def test_no_more_classes_are_likely_than_there_are():
    model = classifier(likely=10).eval()
    with torch.no_grad():
        tokens = model.text_side.encode(model.backbone, torch.randn(2, 3, 32, 32), ('global',))[0].prompts
    assert tokens.selected.sort(dim=1).values.tolist() == [[0, 1, 2]] * 2


def test_an_image_has_the_same_logits_in_any_batch_and_after_training():
    model = classifier(likely=2, std=0.5).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        together = model(images)
        torch.testing.assert_close(torch.cat([model(image[None]) for image in images]), together)
        assert torch.equal(model.train().eval()(images), together)


def test_the_image_is_seen_without_gradient(towers):
    block = build(towers, 'CAVPTPrompt', lower_blocks=3).upper[0]
    x, text = torch.randn(1, 5, 32, requires_grad=True), torch.randn(1, 2, 16, requires_grad=True)
    tokens, logits = block(text, x)
    (tokens.sum() + logits.sum()).backward()
    assert x.grad is None and text.grad.any() and block.memory.grad.any()


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_only_tokens_of_the_true_class_are_asked_what_they_show():
    model = classifier(loss=dict(alpha=2.0, guided_epochs=0), likely=2, lower_blocks=2, std=0.5).train()
    images, labels = torch.randn(4, 3, 32, 32), [0, 1, 2, 0]
    tokens = model.text_side.encode(model.backbone, images, ('global',))[0].prompts
    wanted = [
        F.cross_entropy(logits[i, place][None], torch.tensor([label]))
        for logits in tokens.class_logits
        for i, label in enumerate(labels)
        for place in range(2)
        if tokens.selected[i, place] == label
    ]
    assert 0 < len(wanted) < 2 * len(labels)
    losses = model(images, samples(*labels), mode='loss')
    assert set(losses) == {'loss_ce', 'loss_class_aware'}
    torch.testing.assert_close(losses['loss_class_aware'], 2 * torch.stack(wanted).mean())
    none = model(images, samples(*(sorted({0, 1, 2} - set(row))[0] for row in tokens.selected.tolist())), mode='loss')
    assert none['loss_class_aware'] == 0 and none['loss_class_aware'].requires_grad


def test_general_knowledge_guides_the_first_epochs():
    model = classifier(loss=dict(guided_epochs=3)).train()
    images, data = torch.randn(2, 3, 32, 32), samples(0, 1)
    features, text = model.text_side.encode(model.backbone, images, ('global',))
    own = dict(images=images, features=features, text=text, logits=model.logits(features, text))
    step = dict(own, logit_scale=model.text_encoder.logit_scale.exp(), data_samples=data, class_names=model.class_names)
    guided, free = (model.loss_function(Step(**step, epoch=epoch)) for epoch in (2, 3))
    assert set(guided) - set(free) == {'loss_text', 'loss_image'}
    torch.testing.assert_close(guided['loss_ce'], 0.1 * free['loss_ce'])


def test_other_prompts_have_no_tokens_of_classes():
    loss = MODELS.build(dict(type='vlm_dense.CAVPTLoss'))
    step = Step(None, ImageFeatures(), None, torch.zeros(1, 3), torch.tensor(1.0), samples(0), tuple('abc'))
    with pytest.raises(ConfigError, match='CAVPTLoss belongs to CAVPTPrompt.* found NoneType'):
        loss(step)


# --- releases, segmentors ---------------------------------------------------------------------------------------------


def test_the_three_files_of_the_release_load(towers, tmp_path):
    prompt = build(towers, 'CAVPTPrompt', num_contexts=2, lower_blocks=2)
    new = {k: torch.randn_like(v) for k, v in prompt.state_dict().items()}
    parts = dict(query='meta_nets', attention='attns', norm='lns', norm_out='lns2', classifier='classfiers')
    extractor = dict(ctx=torch.stack([new['upper.0.memory'], new['upper.1.memory']]))
    for name, value in new.items():
        kind, *rest = name.split('.')
        if kind == 'upper' and rest[1] != 'memory':
            extractor[f'{parts[rest[1]]}.{rest[0]}.{".".join(rest[2:])}'] = value
    modules = {
        'prompt_learner': dict(ctx=new['ctx']),
        'image_encoder.transformer.ctx_learner': dict(ctx=new['tokens']),
        'image_encoder.transformer.extractor': extractor,
    }
    files = {}
    for module, weights in modules.items():
        files[module] = str(tmp_path / f'{module}.tar-60')
        torch.save(dict(state_dict=weights, epoch=60), files[module])
    loaded = build(towers, 'CAVPTPrompt', num_contexts=2, lower_blocks=2, pretrained=files).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in new.items())

    for j in (0, 1):
        extractor[f'classfiers.{j}.weight'] = torch.randn(7, 32)
    torch.save(dict(state_dict=extractor), files['image_encoder.transformer.extractor'])
    other = build(towers, 'CAVPTPrompt', num_contexts=2, lower_blocks=2, pretrained=files).state_dict()
    assert other['upper.1.classifier.weight'].shape == (3, 32)
    assert torch.equal(other['upper.1.query.weight'], new['upper.1.query.weight'])
    with pytest.raises(CheckpointError, match='3 lower blocks, and 1 upper blocks'):
        build(towers, 'CAVPTPrompt', num_contexts=2, lower_blocks=3, pretrained=files)
    path = release(tmp_path / 'ctx.pth', {'prompt_learner.ctx': new['ctx']})
    with pytest.raises(CheckpointError, match='missing'):
        build(towers, 'CAVPTPrompt', num_contexts=2, pretrained=dict(prompt_learner=path))


def test_it_trains_in_a_denseclip_vit():
    """There are no labels of images there, so that nobody asks what class a token shows."""
    model = denseclip(text_prompt=dict(type='vlm_dense.CAVPTPrompt', num_contexts=2, num_tokens=2)).train()
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 3, (1, 32, 32))))
    sample.set_metainfo(dict(img_shape=(32, 32), ori_shape=(32, 32)))
    model.parse_losses(model.loss(torch.randn(2, 3, 32, 32), [sample, sample]))[0].backward()
    still = {name for name, p in model.text_prompt.named_parameters() if p.grad is None or not p.grad.any()}
    assert {name.split('.')[2] for name in still} == {'norm', 'classifier'}


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_named(towers):
    resnet = dict(towers, image_tower=MODELS.build(dict(type='vlm_dense.CLIPResNet', arch=RESNET, attnpool=True)))
    with pytest.raises(ConfigError, match='only a ViT takes'):
        build(resnet, 'CAVPTPrompt')
    for options in (dict(lower_blocks=-1), dict(lower_blocks=4), dict(likely=0), dict(num_tokens=0)):
        with pytest.raises(ConfigError, match=r'lower_blocks must lie in 0\.\.3 for 4 blocks'):
            build(towers, 'CAVPTPrompt', **options)
    with pytest.raises(ConfigError, match='need one {}'):
        build(towers, 'CAVPTPrompt', template='a photo.')
    with pytest.raises(ClassNamesError, match='CAVPTPrompt: .*The context takes 74 of them'):
        build(towers, 'CAVPTPrompt', num_contexts=74)
