"""The classifier keeps the contract: which role is asked when, what it is given, what becomes of what it returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModule
from tiny_towers import vit

from vlm_dense.classification import ClsDataSample
from vlm_dense.clip.image_tower import ImageFeatures, PromptTokens
from vlm_dense.contract import LearnedContext, TextPrompt
from vlm_dense.contract.roles import Head, ImagePrompt, Loss, TestTimeAdaptation
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

ARCH = vit()
NAMES = ['circle', 'tiger_shark', 'red star']
CONFIG = dict(
    type='vlm_dense.CLIPClassifier',
    class_names=NAMES,
    data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3),
    backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True),
    text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
    text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=3),
)


def build(**kwargs):
    torch.manual_seed(0)
    return MODELS.build(CONFIG | kwargs)


def images(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def samples(*labels) -> list:
    return [ClsDataSample().set_label(label) for label in labels]


def cosine(image, text):
    return F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T


# --- image prompts ----------------------------------------------------------------------------------------------------


class Brighter(ImagePrompt, BaseModule):
    """Adds a learned number to the pixels and one token, and keeps what it was shown."""

    plain = ('global',)
    reads_text = True

    def __init__(self, image_tower):
        super().__init__()
        self.shift, self.token = torch.nn.Parameter(torch.ones(())), torch.nn.Parameter(torch.ones(1, 32))
        assert image_tower.width == 32

    def prompt(self, images, text=None, plain=None):
        self.seen = text, plain
        return images + self.shift, PromptTokens(self.token)


def test_an_image_prompt_sees_text_and_plain_features_and_is_trained_through_the_frozen_tower():
    model = build(image_prompt=dict(type=Brighter)).train()
    losses = model(images(), samples(0, 2), mode='loss')
    losses['loss_ce'].backward()
    text, plain = model.image_prompt.seen
    tower = model.backbone
    with torch.no_grad():
        torch.testing.assert_close(plain.global_, tower.encode(images(), ('global',)).global_)
        prompted = tower.encode(images() + 1, ('global',), PromptTokens(torch.ones(1, 32))).global_
        wanted = F.cross_entropy(100 * cosine(prompted, text) * model.text_encoder.logit_scale.exp() / 100, _01(0, 2))
    torch.testing.assert_close(losses['loss_ce'].detach(), wanted)
    assert model.image_prompt.shift.grad.abs() > 0 and model.image_prompt.token.grad.abs().sum() > 0
    assert all(p.grad is None for p in tower.parameters())


def _01(*labels):
    return torch.tensor(labels)


def test_prompts_that_wait_for_each_other_are_refused():
    with pytest.raises(ConfigError, match='Brighter reads the class embeddings before the image is encoded'):
        build(image_prompt=dict(type=Brighter), text_prompt=dict(type='vlm_dense.CoCoOpPrompt', reduction=2))


class Joint(LearnedContext, ImagePrompt, Head):
    """Three roles at once."""

    def prompt(self, images, text=None, plain=None):
        return images + self.ctx.mean(), None

    def logits(self, features, text, logit_scale):
        return features.global_ @ text.T + self.ctx.sum()


def test_a_module_of_several_roles_is_named_once_and_saved_once():
    model = build(text_prompt=dict(type=Joint, num_contexts=2)).eval()
    own = [k for k in model.state_dict() if not k.startswith(('backbone', 'text_encoder'))]
    assert own == ['text_prompt.ctx']
    prompt = model.text_prompt
    with torch.no_grad():
        features = model.backbone.encode(images() + prompt.ctx.mean(), ('global',)).global_
        text = F.normalize(prompt(model.text_encoder), dim=-1)
        torch.testing.assert_close(model(images()), features @ text.T + prompt.ctx.sum())
    with pytest.raises(ConfigError, match='Joint already makes the logits'):
        build(text_prompt=dict(type=Joint), head=dict(type='vlm_dense.CosineHead'))
    with pytest.raises(ConfigError, match='Joint already prompts the image tower'):
        build(text_prompt=dict(type=Joint), image_prompt=dict(type=Brighter))


# --- variants, directions, sub-lists ----------------------------------------------------------------------------------


class Samples(TextPrompt):
    """V given embeddings of each class, with or without one set an image, combined by the greatest."""

    num_variants = 4

    def __init__(self, class_names, text_tower, conditioned=False):
        super().__init__(class_names, text_tower)
        self.image_conditioned = conditioned
        self.register_buffer('vectors', torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(2)))

    def forward(self, text_tower, image_features=None, classes=None):
        return self.vectors + image_features[:, None, None] if self.image_conditioned else self.vectors

    def classifier_weights(self, class_embeddings):
        return 2 * F.normalize(class_embeddings, dim=-1)

    def reduce_variants(self, logits):
        return logits.amax(dim=1)


@pytest.mark.parametrize('conditioned', [False, True])
def test_variants_are_compared_one_by_one_and_combined_by_the_prompt(conditioned):
    model = build(text_prompt=dict(type=Samples, conditioned=conditioned)).eval()
    with torch.no_grad():
        found = model(images(3))
        features = model.backbone.encode(images(3), ('global',)).global_
        scale = model.text_encoder.logit_scale.exp()
        for b, feature in enumerate(features):
            sets = [v + feature if conditioned else v for v in model.text_prompt.vectors]
            wanted = torch.stack([2 * scale * cosine(feature, v) for v in sets]).amax(0)
            torch.testing.assert_close(found[b], wanted)


class Chosen(Loss):
    """Trains with two of the classes."""

    def classes(self, data_samples):
        return torch.tensor([2, 0])

    def forward(self, step):
        labels = (step.labels() == 0).long()
        return dict(loss_two=F.cross_entropy(step.logits, labels), acc=torch.zeros(()))


@pytest.mark.parametrize(
    'prompt', [dict(type='vlm_dense.CoOpPrompt', class_specific=True), dict(type='vlm_dense.KgCoOpPrompt')]
)
def test_a_loss_chooses_the_classes_of_its_step(prompt):
    model = build(text_prompt=prompt, loss=dict(type=Chosen)).train()
    losses = model(images(), samples(0, 2), mode='loss')
    with torch.no_grad():
        model.eval()
        logits = model(images())[:, [2, 0]]
    torch.testing.assert_close(losses['loss_two'].detach(), F.cross_entropy(logits, _01(1, 0)))
    assert set(losses) - {'prompt.loss_kg'} == {'loss_two', 'acc'}


def test_labels_can_be_smoothed():
    plain, smooth = (build(loss=dict(type='vlm_dense.CrossEntropy', label_smoothing=s)).eval() for s in (0, 0.3))
    with torch.no_grad():
        logits = plain(images()).log_softmax(1)
        wanted = 0.7 * -logits[[0, 1], [0, 2]].mean() + 0.3 * -logits.mean()
        torch.testing.assert_close(smooth(images(), samples(0, 2), mode='loss')['loss_ce'], wanted)


# --- heads, features instead of images -------------------------------------------------------------------------------


class Linear(Head, BaseModule):
    """Reads the map of projected patches and no text."""

    features = ('dense',)
    text = False

    def __init__(self, class_names):
        super().__init__()
        self.fc = torch.nn.Linear(16, len(class_names))

    def logits(self, features, text, logit_scale):
        assert text is None
        return self.fc(features.dense.flatten(2).mean(2))


def test_a_head_gets_the_features_it_names_and_spares_the_text_tower(monkeypatch):
    model = build(head=dict(type=Linear)).train()
    monkeypatch.setattr(type(model.text_prompt), 'forward', None)
    losses = model(images(), samples(0, 2), mode='loss')
    losses['loss_ce'].backward()
    with torch.no_grad():
        dense = model.backbone.encode(images(), ('dense',)).dense
        torch.testing.assert_close(model(images()), model.head.fc(dense.mean((2, 3))))
    assert set(losses) == {'loss_ce'} and model.head.fc.weight.grad.abs().sum() > 0


def test_features_take_the_place_of_images(monkeypatch):
    model = build().eval()
    stored = model.backbone.encode(images(), ('global',)).global_.detach()
    data = pseudo_collate(
        [dict(inputs=dict(global_=row), data_samples=s) for row, s in zip(stored, samples(0, 2), strict=True)]
    )
    with torch.no_grad():
        wanted, wanted_loss = model(images()), model(images(), samples(0, 2), mode='loss')['loss_ce']
        monkeypatch.setattr(type(model.backbone), 'encode', None)
        found = model.val_step(data)
        batch = model.data_preprocessor(data)
        assert isinstance(batch['inputs'], ImageFeatures)
        torch.testing.assert_close(model(**batch, mode='loss')['loss_ce'], wanted_loss)
    torch.testing.assert_close(torch.stack([s.pred_scores for s in found]), wanted)


# --- test time --------------------------------------------------------------------------------------------------------


class MeanOfViews(TestTimeAdaptation):
    """Logits of the mean image."""

    def logits(self, model, views):
        assert views.shape == (5, 3, 32, 32)
        return model.logits(*model.text_side.encode(model.backbone, views.mean(0, keepdim=True), ('global',)))


def test_views_reach_the_adaptation_image_by_image_and_normalised():
    model = build(test_time=dict(type=MeanOfViews)).eval()
    stream = np.random.RandomState(0)
    views = torch.from_numpy(stream.randint(0, 255, (2, 5, 3, 32, 32)).astype(np.uint8))
    data = pseudo_collate([dict(inputs=v, data_samples=s) for v, s in zip(views, samples(0, 1), strict=True)])
    with torch.no_grad():
        found = torch.stack([s.pred_scores for s in model.test_step(data)])
        model.test_time = None
        torch.testing.assert_close(found, model(((views.float() - 100) / 50).mean(1)))
