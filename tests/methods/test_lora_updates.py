"""Low-rank updates in every task: what is trained, what is saved, merged weights, files of the release, refusals."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from matrix.models import ARCHS, SIZE, TASKS, build, output, samples
from mmengine.logging import HistoryBuffer

from vlm_dense.cli import merge_lora
from vlm_dense.clip.loading import load_clip
from vlm_dense.errors import CheckpointError, ConfigError
from vlm_dense.methods.fine_tuning.clip_lora import LoRA, linear_maps, merged
from vlm_dense.registry import MODELS

PLAIN = dict(text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=('a photo of a {}.',), separators='_'))
EVERY = (r'attn\.', 'mlp')


def both(**options) -> dict:
    """Updates of all maps of both towers."""
    own = dict(text_patterns=EVERY, image_patterns=EVERY, dropout=0.0)
    return dict(text_prompt=dict(dict(type='vlm_dense.CLIPLoRAPrompt', **own), **options))


def moved(model: torch.nn.Module) -> torch.nn.Module:
    """The model with updates that are not 0."""
    for name, parameter in model.named_parameters():
        if 'w_lora_B' in name:
            torch.nn.init.normal_(parameter.data, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return model.eval()


@pytest.fixture
def weights(tmp_path) -> dict:
    """A CLIP with random weights, and where its file is."""
    torch.manual_seed(3)
    clip = load_clip(ARCHS['vit'])
    torch.save(clip.state_dict(), tmp_path / 'clip.pt')
    return dict(path=str(tmp_path / 'clip.pt'), state=clip.state_dict())


def of_file(task: str, parts: dict, path: str) -> torch.nn.Module:
    """A model with towers read from a file; everything else is drawn from one seed."""
    import matrix.models as models

    cfg = models.CONFIGS[task]('vit', parts)
    cfg['backbone']['pretrained'] = cfg['text_encoder']['pretrained'] = path
    torch.manual_seed(0)
    return MODELS.build(models.ConfigDict(cfg))


@pytest.mark.parametrize('task', TASKS)
def test_merged_weights_give_the_same(task, weights, tmp_path):
    model = moved(of_file(task, both(), weights['path']))
    torch.save(merged(weights['state'], model.text_side.text_prompt.official()), tmp_path / 'merged.pt')
    others = r'^backbone\.fpn|^(?!backbone|(decode_head\.)?text_)'  # the text tower is in MaskCLIP's head
    rest = {key: value for key, value in model.state_dict().items() if re.search(others, key)}

    def plain(path: str) -> list[torch.Tensor]:
        other = of_file(task, PLAIN, path)
        other.load_state_dict(rest, strict=False)
        return output(task, other.eval(), images)

    images = torch.randn(2, 3, SIZE, SIZE)
    every = zip(output(task, model, images), plain(str(tmp_path / 'merged.pt')), plain(weights['path']), strict=True)
    errors = [((one - same).abs().max(), (one - before).abs().max()) for one, same, before in every]
    error, effect = (max(values) for values in zip(*errors, strict=True))
    assert error < 0.01 * effect


def test_only_the_updates_are_trained_and_begin_as_nothing(weights):
    model = of_file('classifier', both(dropout=0.5), weights['path'])
    assert {k.split('.')[0] for k, p in model.named_parameters() if p.requires_grad} == {'text_prompt'}
    images, plain = torch.randn(2, 3, SIZE, SIZE), of_file('classifier', PLAIN, weights['path'])
    assert torch.allclose(model.eval()(images), plain.eval()(images), atol=1e-4)
    model.train()
    total, _ = model.parse_losses(model.loss(images, samples('classifier', 2)))
    total.backward()
    for name, parameter in model.text_prompt.named_parameters():
        assert (parameter.grad.abs().max() > 0) == ('w_lora_B' in name), name  # A waits for B


def test_a_copy_of_a_model_has_updates_of_its_own(weights):
    model = moved(of_file('classifier', both(), weights['path']))
    images = torch.randn(1, 3, SIZE, SIZE)
    twin, before = copy.deepcopy(model), model(images)
    for parameter in twin.text_prompt.parameters():
        parameter.data.zero_()
    assert torch.equal(model(images), before) and not torch.allclose(twin(images), before, atol=1e-3)


@pytest.mark.parametrize('chunk', [100, 3])
def test_the_gradient_is_that_of_the_dropout_that_was_drawn(chunk, weights):
    model = of_file('classifier', both(dropout=0.5, image_patterns=()), weights['path'])
    tower, prompt = model.text_encoder, moved(model).text_prompt.train()
    tower.chunk_size = chunk  # chunks are computed again in the backward pass
    prompt.class_names = tuple(f'class {number}' for number in range(7))
    prompt.token_ids = tower.tokenize(list(prompt.class_names))
    weight = next(iter(prompt.text.values())).w_lora_B

    def value() -> torch.Tensor:
        torch.manual_seed(2)
        return prompt(tower)[:, 0].sum()

    (grad,) = torch.autograd.grad(value(), weight)
    direction, step = grad / grad.norm(), 1e-2
    weight.data += step * direction
    up = value()
    weight.data -= 2 * step * direction
    slope = (up - value()) / (2 * step)
    assert slope.item() == pytest.approx(grad.norm().item(), rel=0.05)


def test_files_of_the_release_are_read(weights, tmp_path):
    options = dict(text_patterns=[r'[01]\.attn\.[qv]_proj'], image_patterns=[r'3\.attn\.[qv]_proj'], rank=3, alpha=2.0)
    model = moved(of_file('classifier', both(**options), weights['path']))
    layers: dict = {}
    for name, part in model.text_prompt.official().items():
        block, _, leaf = name.rpartition('.')
        layers.setdefault(block, {})[leaf] = {k: p.detach() for k, p in part.named_parameters()}
    content = dict(
        weights={f'layer_{i}': layer for i, layer in enumerate(layers.values())},
        metadata=dict(r=3, alpha=2.0, encoder='both', params=['q', 'v'], position='bottom'),
    )
    path = str(tmp_path / 'lora_weights.pt')
    torch.save(content, path)
    again = of_file('classifier', both(**options, pretrained=path), weights['path']).eval()
    images = torch.randn(1, 3, SIZE, SIZE)
    assert torch.equal(again(images), model(images))
    for wrong, word in (dict(rank=2), 'r=2'), (dict(text_patterns=[r'0\.attn\.[qv]_proj']), 'patterns'):
        with pytest.raises(CheckpointError, match=word):
            of_file('classifier', both(**dict(options, pretrained=path, **wrong)), weights['path'])


def test_a_second_prompt_shares_the_updates_and_what_they_have_learned(weights, tmp_path):
    model = moved(of_file('classifier', both(), weights['path']))
    cfg, images = both()['text_prompt'], torch.randn(1, 3, SIZE, SIZE)
    file = {'weights': {}, 'metadata': dict(r=2, alpha=1.0)}  # a release that must not be read over what was learned
    torch.save(file, tmp_path / 'lora_weights.pt')
    before = model(images)
    second = model.build_part(dict(cfg, pretrained=str(tmp_path / 'lora_weights.pt')), ['red star', 'blue square'])
    assert torch.equal(model(images), before)
    own, shared = model.text_prompt.official(), second.official()
    assert len(own) == 42 and all(shared[name] is part for name, part in own.items())
    for wrong in (dict(rank=3), dict(text_patterns=['mlp'])):
        with pytest.raises(ConfigError, match='all prompts of a tower share its updates'):
            model.build_part(dict(cfg, **wrong), ['red star', 'blue square'])
    assert torch.equal(model(images), before)


@pytest.mark.parametrize(
    ('parts', 'word'),
    [
        (both(text_patterns=['resblocks.17']), "matches 'resblocks.17'"),
        (both(text_patterns=(), image_patterns=()), 'nothing is updated'),
        (both(rank=0), 'rank'),
        (both(dropout=1.0), 'dropout'),
        (dict(PLAIN, image_prompt=dict(type='vlm_dense.LoRA', patterns=['conv1'])), "matches 'conv1'"),
        (dict(PLAIN, image_prompt=dict(type='vlm_dense.LoRA', patterns=())), 'nothing is updated'),
    ],
)
def test_options_that_cannot_work_are_refused(parts, word):
    with pytest.raises(ConfigError, match=word):
        build('classifier', 'vit', parts)


def test_a_resnet_has_maps_in_its_attention_pool_alone():
    with pytest.raises(ConfigError, match=r"matches 'attn\\\\.'. Its maps are attnpool.q_proj, .* of 4"):
        build('classifier', 'resnet', both())
    build('classifier', 'resnet', both(image_patterns=()))
    clip = load_clip(ARCHS['resnet']).eval()
    prompt, images = dict(PLAIN, image_prompt=dict(type='vlm_dense.LoRA')), torch.randn(2, 3, SIZE, SIZE)
    model = moved(build('classifier', 'resnet', prompt))
    assert set(model.image_prompt.image) == {f'attnpool-{leaf}_proj' for leaf in 'qkv'}
    model.backbone.load_state_dict({k.removeprefix('visual.'): v for k, v in clip.visual.state_dict().items()})
    other = load_clip(ARCHS['resnet'])
    other.load_state_dict(merged(clip.state_dict(), model.image_prompt.official()))
    before, after = (c.eval().visual(images) for c in (clip, other))
    updated = model.backbone.encode(images, ('global',)).global_
    assert (after - updated).abs().max() < 0.01 * (before - updated).abs().max()


def test_every_map_of_a_block_is_reached(weights):
    model = of_file(
        'classifier', dict(PLAIN, image_prompt=dict(type='vlm_dense.LoRA', patterns=EVERY)), weights['path']
    )
    assert len(linear_maps(model.backbone)) == 4 * 6 == len(model.image_prompt.image)
    assert isinstance(model.image_prompt, LoRA)
    images, before = torch.randn(1, 3, SIZE, SIZE), None
    for part in model.image_prompt.image.values():
        before = model.eval()(images)
        part.w_lora_B.data.normal_()
        assert not torch.allclose(model(images), before, atol=1e-3)


def test_the_program_writes_a_clip(weights, tmp_path, capsys, monkeypatch):
    model = moved(of_file('classifier', both(), weights['path']))
    updates = {k: v for k, v in model.state_dict().items() if 'lora' in k}
    hub = dict(log_scalars={'train/loss': HistoryBuffer([1.0], [1])})  # as a run of mmengine saves it
    torch.save(dict(state_dict=updates, message_hub=hub, meta=dict(epoch=1)), tmp_path / 'trained.pth')
    cfg = dict(type='vlm_dense.CLIPClassifier', **both(), class_names=['background', 'circle', 'red star'])
    for part in ('backbone', 'text_encoder'):
        kind = dict(backbone='vlm_dense.CLIPViT', text_encoder='vlm_dense.TextTower')[part]
        cfg[part] = dict(type=kind, arch=ARCHS['vit'], pretrained=weights['path'])
    cfg['backbone'].update(head=True, pyramid=True)
    (tmp_path / 'config.py').write_text(f'model = {cfg!r}\n')
    merge_lora.main([str(tmp_path / name) for name in ('config.py', 'trained.pth', 'merged.pt')])
    assert '42 maps updated' in capsys.readouterr().out
    images = torch.randn(1, 3, SIZE, SIZE)
    other = of_file('classifier', PLAIN, str(tmp_path / 'merged.pt')).eval()
    torch.testing.assert_close(other(images), model(images), rtol=1e-4, atol=1e-3)
    merge_lora.main([*(str(tmp_path / name) for name in ('config.py', 'trained.pth', 'whole.pth')), '--whole'])
    content = torch.load(tmp_path / 'whole.pth', weights_only=True)
    again = of_file('classifier', PLAIN, weights['path'])
    assert set(content['state_dict']) == set(again.state_dict())
    again.load_state_dict(content['state_dict'])
    torch.testing.assert_close(again.eval()(images), model(images), rtol=1e-4, atol=1e-3)
