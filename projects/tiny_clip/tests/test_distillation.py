"""Training of an image tower to the text tower of a bundled model."""

from __future__ import annotations

import pytest
import torch
from tiny_clip.distillation import CaptionDistillation

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
