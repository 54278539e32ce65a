"""Pretraining sees captions only, and what it exports is the CLIP that was trained."""

from __future__ import annotations

import open_clip
import pretrain_clip
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from tiny_clip.pretraining import CaptionPretraining, ZeroShotShapes, caption_ids, export, shapes_vocabularies

from vlm_dense.clip.loading import load_clip, tokenize
from vlm_dense.datasets.scenes import PAIRS, pair_name


def presence(*names: str) -> torch.Tensor:
    row = torch.zeros(len(PAIRS))
    row[[i for i, p in enumerate(PAIRS) if pair_name(*p) in names]] = 1
    return row


def test_cached_words_give_the_ids_of_clips_tokenizer():
    captions = [c for v in shapes_vocabularies().values() for wordings in v.captions for c in wordings]
    for caption, reference in zip(captions, open_clip.tokenize(captions), strict=True):
        ids = caption_ids(caption)
        assert reference[: len(ids)].tolist() == ids and not reference[len(ids) :].any()


def test_targets_share_equally_among_the_captions_that_are_true():
    present = torch.stack([presence('red circle'), presence('red circle', 'blue circle', 'blue star'), presence()])
    targets = {name: v.targets(present) for name, v in shapes_vocabularies().items()}
    assert targets['pair'].sum(1).tolist() == pytest.approx([1, 1, 1])
    assert targets['pair'][1].max() == pytest.approx(1 / 3) and targets['pair'][2, 64] == 1
    assert targets['shape'][:, [0, 3]].tolist() == [[1, 0], [0.5, 0.5], [0, 0]]
    assert targets['colour'][:, [0, 5]].tolist() == [[1, 0], [0.5, 0.5], [0, 0]]
    assert targets['shape_group'].tolist() == [[1, 0, 0], [0.5, 0, 0.5], [0, 0, 0]]
    assert targets['colour_group'].tolist() == [[1, 0], [0.5, 0.5], [0, 0]]


@pytest.mark.parametrize('arch', ['tiny-rn', 'tiny-vit', 'tiny-siglip', 'tiny-convnext'])
def test_exported_file_is_the_model_that_was_trained(arch, tmp_path):
    torch.manual_seed(0)
    model = CaptionPretraining(arch).eval()
    export(model, tmp_path / 'model.safetensors')
    assert (tmp_path / 'model.safetensors').stat().st_size < 8e6
    clip = load_clip(arch, tmp_path / 'model.safetensors')
    captions = ['a photo of a red circle.', 'a green star and an orange heart']
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        text = clip.encode_text(tokenize(arch, captions, clip.context_length), normalize=True)
        torch.testing.assert_close(text, model.encode_captions(captions), atol=5e-3, rtol=0)
        torch.testing.assert_close(clip.encode_image(images, normalize=True), model(images, None), atol=5e-3, rtol=0)


def test_every_weight_is_trained_from_captions_with_or_without_objects():
    torch.set_num_threads(1)
    config = Config.fromfile('projects/tiny_clip/configs/pretrain_tiny-rn.py')
    dataset = DATASETS.build(dict(config.scenes, num_scenes=12, num_objects=(0, 3)))
    batch = {key: torch.stack([item[key] for item in dataset]) for key in dataset[0]}
    assert {0, 2} <= set(batch['data_samples'].sum(1).int().tolist())
    model = CaptionPretraining('tiny-rn', data_preprocessor=config.model.data_preprocessor)
    losses = model(**model.data_preprocessor(batch), mode='loss')
    assert set(losses) == {f'loss_{n}' for n in (*shapes_vocabularies(), 'caption')}
    assert all(torch.isfinite(v) and v > 0 for v in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_batch_of_single_objects_has_no_list_to_tell():
    torch.set_num_threads(1)
    model = CaptionPretraining('tiny-rn')
    present = torch.stack([presence('red circle'), presence('blue star')])
    losses = model(torch.randn(2, 3, 64, 64), present, mode='loss')
    assert 'loss_caption' not in losses and all(torch.isfinite(v) for v in losses.values())


def test_metric_counts_shape_colour_and_both():
    metric = ZeroShotShapes()
    red_circle, blue_circle, blue_star = (int(presence(n).argmax()) for n in ('red circle', 'blue circle', 'blue star'))
    pairs = [(red_circle, red_circle), (blue_circle, red_circle), (blue_star, blue_circle), (blue_star, red_circle)]
    metric.process({}, [dict(predicted=p, truth=t) for p, t in pairs])
    assert metric.evaluate(4) == {'zero_shot/colour': 50, 'zero_shot/shape': 50, 'zero_shot/both': 25}


@pytest.mark.parametrize(
    ('name', 'colour', 'shape'),
    [('tiny-rn', 99, 95), ('tiny-vit', 98, 94), ('tiny-siglip', 98, 90), ('tiny-convnext', 98, 80)],
)
def test_bundled_models_recognise_held_out_scenes(name, colour, shape):
    config = Config.fromfile(f'projects/tiny_clip/configs/pretrain_{name}.py')
    dataset = DATASETS.build(dict(config.test_dataloader.dataset, num_scenes=500))
    batch = {key: torch.stack([item[key] for item in dataset]) for key in dataset[0]}
    model = CaptionPretraining(name, data_preprocessor=config.model.data_preprocessor).eval()
    model.take_weights(load_clip(name, 'bundled'))
    metric = ZeroShotShapes()
    with torch.no_grad():
        metric.process({}, model.val_step(batch))
    scores = metric.evaluate(500)
    assert scores['zero_shot/colour'] >= colour and scores['zero_shot/shape'] >= shape


def test_a_checkpoint_that_does_not_fit_is_refused_and_nothing_is_written(tmp_path, capsys):
    torch.save(dict(state_dict={'backbone.weight': torch.zeros(3)}, meta={}), tmp_path / 'other.pth')
    config = 'projects/tiny_clip/configs/pretrain_tiny-rn.py'
    for words in (['--export', str(tmp_path / 'other.pth')], ['--export', str(tmp_path / 'absent.pth')]):
        with pytest.raises(SystemExit) as left:
            pretrain_clip.main([config, '--work-dir', str(tmp_path / 'work'), *words])
        assert left.value.code == 2 and 'Traceback' not in capsys.readouterr().err
    assert not list(tmp_path.rglob('*.safetensors'))


def test_a_checkpoint_of_the_recipe_is_exported(tmp_path):
    torch.save(dict(state_dict=CaptionPretraining('tiny-rn').state_dict(), meta={}), tmp_path / 'own.pth')
    config = 'projects/tiny_clip/configs/pretrain_tiny-rn.py'
    pretrain_clip.main([config, '--work-dir', str(tmp_path / 'work'), '--export', str(tmp_path / 'own.pth')])
    assert (tmp_path / 'work' / 'tiny-rn.safetensors').stat().st_size < 8e6
