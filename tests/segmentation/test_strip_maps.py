"""Predictions by strips against mmseg's: windows, flips, padding, sizes, ties, test-time augmentation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from largest import LargestTensor
from mmengine import ConfigDict
from mmseg.models import EncoderDecoder, SegTTAModel
from mmseg.structures import SegDataSample
from torch import nn

from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS
from vlm_dense.segmentation import strips
from vlm_dense.segmentation.postprocess import CHANNELS_AT_ONCE, PostProcess
from vlm_dense.segmentation.steps import ClassMaps, PlaneStep
from vlm_dense.segmentation.tta import StripTTAModel
from vlm_dense.segmentation.window_maps import StripMaps, WindowMaps

K = 11
SLIDE = dict(mode='slide', crop_size=(48, 48), stride=(32, 32), window_batch_size=3)
WHOLE = dict(mode='whole')


@pytest.fixture(autouse=True)
def small_strips(monkeypatch):
    monkeypatch.setitem(strips._ELEMENTS, 'cpu', 100 * K * 4)


class Patches(nn.Module):
    """A backbone of one convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4, padding=2)

    def forward(self, images):
        return [self.conv(images)]


def build(align_corners=False, kind='vlm_dense.CLIPEncoderDecoder', **test_cfg):
    torch.manual_seed(0)
    return MODELS.build(
        ConfigDict(
            type=kind,
            backbone=dict(type=Patches),
            data_preprocessor=dict(type='mmseg.SegDataPreProcessor', mean=[0.0] * 3, std=[1.0] * 3),
            decode_head=dict(
                type='mmseg.FCNHead',
                in_channels=8,
                in_index=0,
                channels=8,
                num_convs=0,
                concat_input=False,
                num_classes=K,
                align_corners=align_corners,
            ),
            test_cfg=dict(keep_logits=False) | test_cfg,
        )
    ).eval()


def sample(**meta):
    return SegDataSample(metainfo=dict(dict(img_shape=(64, 80), ori_shape=(64, 80)), **meta))


def predict(model, image, meta, by_mmseg=False):
    cls = EncoderDecoder if by_mmseg else type(model)
    with torch.no_grad():
        return cls.predict(model, image[None].clone(), [sample(**meta)])[0]


def assert_same_labels(found, logits):
    """Equal, but where two classes are as good as tied."""
    assert found.dtype == torch.int64 and found.shape == (1, *logits.shape[1:])
    wrong = found[0] != logits.argmax(dim=0)
    top = logits.topk(2, dim=0).values
    assert (top[0] - top[1])[wrong].max() < 1e-4 if wrong.any() else True
    assert wrong.float().mean() < 1e-3 and len(found.unique()) > 2


METAS = [
    {},
    dict(ori_shape=(100, 41)),
    dict(ori_shape=(31, 97), flip=True, flip_direction='horizontal'),
    dict(ori_shape=(64, 80), flip=True, flip_direction='vertical'),
    dict(ori_shape=(77, 50), flip=True, flip_direction='vertical', padding_size=(2, 9, 3, 8)),
    dict(ori_shape=(53, 69), img_padding_size=(0, 11, 0, 11)),
]


@pytest.mark.parametrize('meta', METAS, ids=['same', 'size', 'horizontal', 'vertical', 'padded', 'cut'])
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('test_cfg', [WHOLE, SLIDE], ids=['whole', 'slide'])
def test_labels_are_those_of_mmseg(test_cfg, align_corners, meta):
    model = build(align_corners, **test_cfg)
    image = F.interpolate(20 * torch.randn(1, 3, 5, 6), (64, 80))[0]
    found = predict(model, image, meta)
    wanted = predict(model, image, meta, by_mmseg=True).seg_logits.data if test_cfg is WHOLE else None
    if wanted is None:  # mmseg's slide inference; its postprocessing is the same
        logits = EncoderDecoder.slide_inference(model, image[None], [dict(img_shape=(64, 80))]).detach()
        wanted = EncoderDecoder.postprocess_result(model, logits, [sample(**meta)])[0].seg_logits.data
    assert 'seg_logits' not in found
    assert_same_labels(found.pred_sem_seg.data, wanted)


def window_maps(*windows):
    maps = WindowMaps()
    for box, values in windows:
        maps.add(box, values)
    return maps


def labels_of(maps, meta):
    return PostProcess().labels(maps, torch.zeros(3, *maps.size), meta, ClassMaps)


def test_rows_are_those_of_the_whole():
    torch.manual_seed(0)
    boxes = [(0, 20, 0, 24), (4, 24, 10, 34), (0, 20, 10, 34), (4, 24, 0, 24), (4, 24, 10, 34)]
    pieces = window_maps(*((box, torch.randn(K, 5, 6)) for box in boxes))
    maps, counts = torch.zeros(K, 24, 34), torch.zeros(1, 24, 34)
    for (y1, y2, x1, x2), small in pieces.windows:
        maps[:, y1:y2, x1:x2] += F.interpolate(small[None], (20, 24), mode='bilinear')[0]
        counts[:, y1:y2, x1:x2] += 1
    torch.testing.assert_close(pieces.merged(), maps / counts)
    torch.testing.assert_close(pieces.merged(slice(2, 5)), (maps / counts)[2:5])
    wanted = F.interpolate((maps / counts)[None], (51, 29), mode='bilinear')[0]
    found = StripMaps(pieces, dict(ori_shape=(51, 29, 3)))
    assert found.size == (51, 29)
    torch.testing.assert_close(torch.cat([x for _, x in found.strips()]).permute(2, 0, 1), wanted)
    torch.testing.assert_close(found.rows(slice(13, 14)).permute(2, 0, 1), wanted[:, 13:14])


def test_of_classes_that_tie_the_first_is_taken():
    maps = torch.randn(4, 5, 6)
    box, meta = (0, 20, 0, 24), dict(ori_shape=(31, 31))
    labels = labels_of(window_maps((box, torch.cat([maps, maps]))), meta)
    assert labels.max() < 4 and torch.equal(labels, labels_of(window_maps((box, maps)), meta))
    assert (labels_of(window_maps((box, torch.zeros(8, 5, 6))), {}) == 0).all()


class Same(PlaneStep):
    """A step that changes nothing."""

    def on(self, image):
        return lambda maps: maps


@pytest.mark.parametrize('refined', [False, True])
@pytest.mark.parametrize('test_cfg', [WHOLE, SLIDE], ids=['whole', 'slide'])
def test_no_map_of_all_classes_is_at_full_size(test_cfg, refined):
    model, image, meta = build(**test_cfg), torch.randn(3, 64, 80), dict(ori_shape=(160, 200))
    [(_, maps)] = model.window_maps([image])
    with LargestTensor() as largest, torch.no_grad():
        PostProcess([Same()] if refined else []).labels(maps, image, meta, ClassMaps)
    assert largest.numel <= 160 * 200 * (CHANNELS_AT_ONCE if refined else 1)


# --- test-time augmentation -----------------------------------------------------------------------------------------


def augmented(number=2):
    """Images of two scales, plain and flipped, as TestTimeAug packs them."""
    inputs, samples = [], []
    for scale in (1.0, 1.5):
        for flip in (False, True):
            size = int(64 * scale), int(80 * scale)
            g = torch.Generator().manual_seed(0)
            images = [F.interpolate(20 * torch.randn(1, 3, 5, 6, generator=g), size)[0] for _ in range(number)]
            inputs.append([x.flip(2) if flip else x for x in images])
            meta = dict(img_shape=size, ori_shape=(70, 90), flip=flip, flip_direction='horizontal', img_path='a.png')
            samples.append([SegDataSample(metainfo=meta) for _ in range(number)])
    return dict(inputs=inputs, data_samples=samples)


@pytest.mark.parametrize('test_cfg', [WHOLE, SLIDE], ids=['whole', 'slide'])
def test_augmented_labels_are_those_of_mmseg(test_cfg):
    model = build(**test_cfg)
    data = augmented()
    with torch.no_grad():
        found = StripTTAModel(model).test_step(data)
        model.test_cfg.keep_logits = True
        merged = [torch.zeros(K, 70, 90) for _ in range(2)]
        for i in range(4):
            one = dict(inputs=data['inputs'][i], data_samples=augmented()['data_samples'][i])
            for total, each in zip(merged, model.test_step(one), strict=True):
                total += each.seg_logits.data.softmax(dim=0)
        wanted = SegTTAModel(model).test_step(augmented())
    for a, b, probabilities in zip(found, wanted, merged, strict=True):
        assert_same_labels(a.pred_sem_seg.data, probabilities)
        assert (a.pred_sem_seg.data[0] == b.pred_sem_seg.data).float().mean() > 0.999
        assert a.img_path == 'a.png' and 'seg_logits' not in a


def test_maps_that_hold_independent_probabilities_are_averaged_as_they_are():
    model = build(**WHOLE)
    model.window_map = lambda crops: model._forward(crops).sigmoid()
    model.class_maps = lambda values: ClassMaps(values, kind='probabilities')
    model.test_cfg.keep_logits = True
    with torch.no_grad():
        [found] = StripTTAModel(model).test_step(augmented(1))
        total = torch.zeros(K, 70, 90)
        for i in range(4):
            one = dict(inputs=augmented(1)['inputs'][i], data_samples=augmented(1)['data_samples'][i])
            [sample] = model.test_step(one)
            scores = sample.seg_logits.data
            assert torch.equal(model.probabilities(scores), scores)  # not their softmax
            total += scores
    assert_same_labels(found.pred_sem_seg.data, total)


@torch.no_grad()
def test_scores_of_one_channel_are_its_probability():
    model = build(keep_logits=True, **WHOLE)
    model.out_channels = model.decode_head.out_channels = 1
    model.decode_head.conv_seg, model.decode_head.threshold = nn.Conv2d(8, 1, 1), 0.5
    image = 20 * torch.randn(3, 64, 80)
    sample, logits = predict(model, image, {}), model.encode_decode(image[None], [dict(img_shape=(64, 80))])[0]
    torch.testing.assert_close(sample.seg_logits.data, logits.sigmoid())
    assert torch.equal(sample.pred_sem_seg.data, (logits.sigmoid() > 0.5).float())
    torch.testing.assert_close(
        model.probabilities(sample.seg_logits.data), torch.cat([1 - logits.sigmoid(), logits.sigmoid()])
    )


def test_augmentation_of_other_segmentors_is_left_to_mmseg():
    with pytest.raises(ConfigError, match=r"tta_model=dict\(type='mmseg.SegTTAModel'\)"):
        StripTTAModel(build(kind='mmseg.EncoderDecoder', **WHOLE))
