"""TPT: nothing is left of one image when the next one comes; views follow from the image; AugMix by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from PIL import Image
from tiny_towers import vit

from vlm_dense.errors import ConfigError
from vlm_dense.methods.test_time.augmix import OPERATIONS, augmix
from vlm_dense.registry import MODELS, TRANSFORMS

NAMES = ['circle', 'tiger_shark', 'red star']
ARCH = vit(layers=1)


def build(text_prompt: dict | None = None, **kwargs):
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='vlm_dense.CLIPClassifier',
            backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True),
            text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
            text_prompt=text_prompt or dict(type='vlm_dense.CoOpPrompt', words='a photo of a'),
            test_time=dict(dict(type='vlm_dense.TPT', selection=0.5), **kwargs),
            class_names=NAMES,
        )
    )
    return model.eval()


def views(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# --- one image after another ------------------------------------------------------------------------------------------


@pytest.mark.parametrize('prompt', ['CoOpPrompt', 'CoCoOpPrompt', 'KgCoOpPrompt', 'DeepTextPrompt'])
def test_an_image_changes_nothing_for_the_next_one(prompt):
    options = dict(reduction=2) if prompt == 'CoCoOpPrompt' else {}
    model = build(dict(type=f'vlm_dense.{prompt}', words='a photo of a', **options))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        together = model(views())
        alone = torch.cat([model(view[None]) for view in views().flip(0)]).flip(0)
        model.test_time.steps = 0
        untuned = model(views())
    torch.testing.assert_close(together, alone, rtol=0, atol=0)
    assert (together - untuned).abs().max() > 1e-3
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_an_error_leaves_the_model_as_it_was(monkeypatch):
    model = build(steps=2)
    before, steps = {k: v.clone() for k, v in model.state_dict().items()}, []

    def fail(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 2:
            raise RuntimeError('in the second step')
        return step(self, *args, **kwargs)

    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, 'step', fail)
    with torch.no_grad(), pytest.raises(RuntimeError, match='second step'):
        model(views(1))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    monkeypatch.undo()
    with torch.no_grad():
        assert torch.equal(model(views(1)), build(steps=2)(views(1)))


def test_nothing_is_trained_so_no_checkpoint_is_asked_for():
    assert not any(p.requires_grad for p in build().parameters())


def test_what_cannot_be_is_named():
    with pytest.raises(ConfigError, match='TPT tunes a learned context, found ZeroShotPrompt'):
        build(dict(type='vlm_dense.ZeroShotPrompt'))(views(1))
    with pytest.raises(ConfigError, match='selection=0.1 of 6 views keeps none'):
        build(selection=0.1)(views(1))


# --- views ------------------------------------------------------------------------------------------------------------


def photo(seed: int, size=(40, 50)) -> np.ndarray:
    return RandomState(seed).randint(0, 256, (*size, 3)).astype(np.uint8)


@pytest.mark.parametrize('mix', [False, True])
def test_views_follow_from_the_image_and_the_seed(mix):
    def made(seed, image):
        transform = TRANSFORMS.build(dict(type='vlm_dense.TPTViews', num_views=4, size=32, mix=mix, seed=seed))
        return transform(dict(img=image))['img']

    state, drawn = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = made(0, photo(0))
    made(0, photo(1))
    again = made(0, photo(0))
    assert first.shape == (4, 32, 32, 3) and first.dtype == (np.float32 if mix else np.uint8)
    assert np.array_equal(first, again)
    other = made(1, photo(0))
    assert np.array_equal(other[0], first[0]) and not np.array_equal(other[1:], first[1:])
    assert np.array_equal(np.random.get_state()[1], state) and torch.equal(torch.get_rng_state(), drawn)
    rgb = Image.fromarray(photo(0)[..., ::-1])
    plain = np.asarray(rgb.resize((40, 32), Image.Resampling.BICUBIC).crop((4, 0, 36, 32)))[..., ::-1]
    assert np.array_equal(first[0], plain)


# --- AugMix -----------------------------------------------------------------------------------------------------------


def drawn(name: str, image: Image.Image, level: float, positive: bool) -> np.ndarray:
    """The operation with this level and sign instead of random ones."""

    class Draw:
        def uniform(self, low=None, high=None):
            return (0.25 if positive else 0.75) if low is None else level

    operation = next(o for o in OPERATIONS if o.__name__ == name)
    return np.asarray(operation(image, 10, Draw()))


@pytest.mark.parametrize('positive', [True, False])
def test_operations_without_effect_in_the_official_figures_are_right_on_every_pixel(positive):
    pixels = photo(3, (224, 224))
    image = Image.fromarray(pixels)
    for level, bits in ((1.0, 4), (2.6, 3), (9.9, 1)):
        mask = 256 - 2 ** (8 - bits)
        assert np.array_equal(drawn('posterize', image, level, positive), pixels & mask)
    for level in (1.0, 4.0, 9.9):
        shift = int(level * 224 / 3 / 10)
        wanted = np.zeros_like(pixels)
        if positive:  # what lies `shift` further comes here
            wanted[:, :-shift] = pixels[:, shift:]
        else:
            wanted[:, shift:] = pixels[:, :-shift]
        assert np.array_equal(drawn('translate_x', image, level, positive), wanted)
        turned = drawn('translate_y', Image.fromarray(pixels.transpose(1, 0, 2)), level, positive)
        assert np.array_equal(turned.transpose(1, 0, 2), wanted)


@pytest.mark.parametrize('positive', [True, False])
def test_shears_interpolate_along_rows_and_columns(positive):
    pixels = photo(4, (48, 48))
    shear = 0.03 * 7.3 * (1 if positive else -1)
    wanted = np.zeros((48, 48, 3))
    inside = np.zeros((48, 48), bool)
    for row in range(48):
        at = np.arange(48) + 0.5 + shear * (row + 0.5) - 0.5  # places of pixel centres in the source
        inside[row] = (at >= 0) & (at <= 47)
        left = np.clip(np.floor(at).astype(int), 0, 46)
        part = (at - left)[:, None]
        wanted[row] = (1 - part) * pixels[row, left] + part * pixels[row, left + 1]
    sheared = drawn('shear_x', Image.fromarray(pixels), 7.3, positive).astype(float)
    assert inside.mean() > 0.8 and np.abs(sheared - wanted)[inside].max() <= 1
    turned = drawn('shear_y', Image.fromarray(pixels.transpose(1, 0, 2)), 7.3, positive)
    assert np.abs(turned.transpose(1, 0, 2) - wanted)[inside].max() <= 1


def test_shifts_scale_with_the_image():
    pixels = np.zeros((56, 56, 3), np.uint8)
    pixels[:, 28:] = 200
    moved = drawn('translate_x', Image.fromarray(pixels), 9.9, True)  # int(73.9) of 224 px are 18.25 of 56
    assert moved[0, 28 - 19].tolist() == [50] * 3 and moved[0, 28 - 18].tolist() == [200] * 3


def test_a_mixture_lies_between_the_image_and_its_changed_copies():
    image = Image.fromarray(np.full((16, 16, 3), 100, np.uint8))
    mixed = augmix(image, 1, RandomState(0))
    assert mixed.shape == (16, 16, 3) and mixed.dtype == np.float32
    assert not np.array_equal(mixed, augmix(image, 1, RandomState(1)))
    assert mixed.min() >= 0 and mixed.max() <= 255
