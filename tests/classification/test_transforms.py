"""Steps of the pipeline: torchvision's on what PIL sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS, TRANSFORMS


def build(*transforms):
    return TRANSFORMS.build(dict(type='vlm_dense.TorchvisionTransforms', transforms=list(transforms)))


@pytest.fixture
def bgr():
    return np.random.RandomState(0).randint(0, 255, (40, 60, 3)).astype(np.uint8)


def test_preprocessing_is_that_of_clip(bgr):
    step = build(dict(type='Resize', size=24, interpolation='bicubic'), dict(type='CenterCrop', size=24))
    image = Image.fromarray(np.ascontiguousarray(bgr[..., ::-1])).resize((36, 24), Image.Resampling.BICUBIC)
    wanted = np.asarray(image.crop((6, 0, 30, 24)))[..., ::-1]
    found = step(dict(img=bgr))
    assert np.array_equal(found['img'], wanted) and found['img_shape'] == (24, 24)
    assert found['img'].dtype == np.uint8 and found['img'].flags.c_contiguous


def test_random_crops_follow_torchs_generator(bgr):
    crop = dict(size=16, scale=(0.08, 1.0), interpolation='bicubic')
    torch.manual_seed(3)
    found = build(dict(type='RandomResizedCrop', **crop), dict(type='RandomHorizontalFlip'))(dict(img=bgr))['img']
    torch.manual_seed(3)
    image = v2.RandomResizedCrop(16, (0.08, 1.0), interpolation=InterpolationMode.BICUBIC)(
        Image.fromarray(np.ascontiguousarray(bgr[..., ::-1]))
    )
    assert np.array_equal(found, np.asarray(v2.RandomHorizontalFlip()(image))[..., ::-1])


def test_greyscale_stays_greyscale(bgr):
    assert build(dict(type='Resize', size=(8, 8)))(dict(img=bgr[..., 0]))['img'].shape == (8, 8)


def test_what_torchvision_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="'RandomResizedCrops' is not in the transforms .* 'RandomResizedCrop'"):
        build(dict(type='RandomResizedCrops', size=3))
    with pytest.raises(ConfigError, match='torchvision does not build CenterCrop'):
        build(dict(type='CenterCrop', sizes=3))


@pytest.mark.parametrize('sizes', [[(8, 8), (8, 8)], [(8, 6), (4, 8)]])
@pytest.mark.parametrize('views', [False, True])
def test_a_batch_is_normalised_like_each_of_its_images(sizes, views):
    config = dict(mean=[122.77, 116.75, 104.09], std=[68.5, 66.63, 70.32], bgr_to_rgb=True)
    preprocess = MODELS.build(dict(type='vlm_dense.ClsDataPreprocessor', **config))
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    if views:
        images = [torch.stack([image, image.flip(-1)]) for image in images]
    batch = preprocess(dict(inputs=images))['inputs']
    assert batch.shape == (2, *images[0].shape[:-2], 8, 8)
    for found, image in zip(batch, images, strict=True):
        height, width = image.shape[-2:]
        normal = (image.flip(-3).float() - preprocess.mean) / preprocess.std
        assert torch.equal(found[..., :height, :width], normal)
        assert not found[..., height:, :].any() and not found[..., width:].any()
