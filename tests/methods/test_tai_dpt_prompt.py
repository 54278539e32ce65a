"""TaI-DPT: losses against loops, captions and images in one model, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from methods.test_adapters import build

from vlm_dense.classification import ClsDataPreprocessor, ClsDataSample
from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.clip.tokenizer import tokenize
from vlm_dense.errors import CheckpointError, ConfigError
from vlm_dense.methods.text_prompts import GrainAsymmetricLoss, GrainSigmoidLoss, RankingLoss

TAI = dict(type='vlm_dense.TaIDPTPrompt', num_contexts=2)
RANKING = dict(type='vlm_dense.RankingLoss')


def captions() -> tuple[torch.Tensor, list]:
    labels = torch.tensor([[1, 0, 0], [0, 1, 1]])
    return tokenize(None, ['a circle', 'a tiger shark and a red star!']), [ClsDataSample(gt_labels=x) for x in labels]


def test_losses_are_those_of_loops_and_skip_what_is_unknown():
    scores, labels = torch.randn(4, 5), torch.randint(-1, 2, (4, 5))
    pairs, sigmoid, asymmetric, known = 0.0, 0.0, 0.0, 0
    for row, truth in zip(scores.tolist(), labels.tolist(), strict=True):
        for i in range(5):
            p = 1 / (1 + torch.tensor(-row[i]).exp())
            known += truth[i] >= 0
            if truth[i] == 1:
                pairs += sum(max(0.0, 0.7 - row[i] + row[j]) for j in range(5) if truth[j] == 0)
                sigmoid -= p.log()
                asymmetric -= (1 - p) * p.log()
            elif truth[i] == 0:
                q = min(1 - p + 0.05, torch.tensor(1.0))
                sigmoid -= (1 - p).log()
                asymmetric -= (1 - q) ** 2 * q.log()
    torch.testing.assert_close(RankingLoss(margin=0.7).of(scores, labels), torch.tensor(pairs / 4))
    torch.testing.assert_close(GrainSigmoidLoss().of(scores, labels), sigmoid / known)
    torch.testing.assert_close(GrainAsymmetricLoss().of(scores, labels), asymmetric / known)


def test_what_follows_a_caption_in_its_batch_changes_nothing():
    model = build(text_prompt=TAI, loss=RANKING)
    ids, _ = captions()
    with torch.no_grad():
        both = model(ids)
        alone = torch.cat([model(ids[:1]), model(ids[1:])])
    torch.testing.assert_close(both, alone)


def test_captions_train_and_images_are_tested():
    model = build(text_prompt=dict(TAI, learn_scale=True, learn_spatial_scale=True), loss=dict(RANKING, margin=50.0))
    before = {name: value.clone() for name, value in model.text_prompt.state_dict().items()}
    ids, samples = captions()
    batch = ClsDataPreprocessor()(dict(inputs=list(ids), data_samples=samples))
    losses = model.train()(**batch, mode='loss')
    assert set(losses) == {'loss_global', 'loss_local'}
    sum(losses.values()).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1).step()
    after = model.text_prompt.state_dict()
    assert set(after) == {'whole.ctx', 'parts.ctx', 'temperature', 'spatial_T'}
    assert not [name for name, value in before.items() if torch.equal(after[name], value)]
    with torch.no_grad():
        assert model.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_scales_that_are_not_learned_are_left_out_of_a_release(tmp_path):
    release = dict(
        ctx=torch.ones(2, 32), ctx_double=torch.zeros(2, 32), temperature=torch.tensor(1.0), spatial_T=torch.tensor(2.0)
    )
    release |= dict(ranking_scale=torch.tensor(4.0), token_prefix=torch.zeros(1), token_suffix_nocls=torch.zeros(1))
    torch.save(dict(state_dict=release), tmp_path / 'best.pth')
    fixed = build(text_prompt=dict(TAI, pretrained=str(tmp_path / 'best.pth'))).text_prompt
    assert fixed.whole.ctx.min() == 1 and fixed.parts.ctx.max() == 0
    learned = build(text_prompt=dict(TAI, learn_scale=True, pretrained=str(tmp_path / 'best.pth'))).text_prompt
    assert float(learned.temperature) == 1.0 and learned.spatial_T is None
    with pytest.raises(CheckpointError, match=r'(?s)expected \(4, 32\), found \(2, 32\).*Both prompts of this TaIDPT'):
        build(text_prompt=dict(TAI, num_contexts=4, pretrained=str(tmp_path / 'best.pth')))


def test_what_does_not_go_together_is_refused():
    ids, samples = captions()
    coop = dict(type='vlm_dense.CoOpPrompt', num_contexts=2)
    with pytest.raises(ConfigError, match='RankingLoss: expected global and local scores'):
        build(text_prompt=coop, loss=RANKING).loss(ImageFeatures(global_=torch.randn(2, 16)), samples)
    with pytest.raises(ConfigError, match='are for captions and for images'):
        build(text_prompt=dict(TAI, spatial_scales=[50]))
    with pytest.raises(ConfigError, match='VPTPrompt prompts the image tower, and captions used instead of images'):
        build(text_prompt=TAI, image_prompt=dict(type='vlm_dense.VPTPrompt', num_tokens=2))(ids)
