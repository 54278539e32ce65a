"""Videos: frames in, a video out, at the rate of the first; by PyAV, told where it is absent."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from PIL import Image

from vlm_dense.cli import segment
from vlm_dense.errors import DataError, MissingLibraryError
from vlm_dense.inference.video import detect_video, open_video, segment_video, write_video

av = pytest.importorskip('av')
NAMES = ['background', 'star']


class Segmentor:
    """Labels what is bright."""

    limits, max_pixels, show_progress, batches = None, 10_000, False, ()

    def view(self, classes=None):
        return type('View', (), dict(class_names=NAMES, model=None))

    def preprocess(self, images):
        self.batches = [*self.batches, len(images)]
        return images

    def forward(self, images, view):
        return [(x.mean(2) > 128).astype(np.uint8) for x in images]

    def postprocess(self, samples, view):
        return [dict(predictions=labels) for labels in samples]


class Detector(Segmentor):
    """Finds one box in each frame, and another one that is unsure."""

    class_names = NAMES
    model = type('Model', (), dict(dataset_meta=dict(classes=NAMES, palette=[(0, 0, 0), (255, 0, 0)])))

    def samples(self, images):
        boxes = torch.tensor([[2.0, 2, 20, 20], [1, 1, 5, 5]])
        found = dict(bboxes=boxes, scores=torch.tensor([0.9, 0.1]), labels=torch.tensor([1, 0]))
        return [type('Sample', (), dict(pred_instances=InstanceData(**found))) for _ in images]

    def as_dict(self, sample):
        return dict(labels=sample.pred_instances.labels.tolist())


@pytest.fixture(scope='module')
def clip(tmp_path_factory) -> Path:
    """50 frames of 63 x 47 px, 10 a second, a quarter of each bright."""
    path = tmp_path_factory.mktemp('clip') / 'clip.mp4'
    frame = np.zeros((47, 63, 3), np.uint8)
    frame[:24, :32] = 255
    assert write_video(str(path), (np.roll(frame, i, 1) for i in range(50)), 10) == 50
    return path


def test_frames_go_in_and_a_video_of_as_many_comes_out(clip, tmp_path):
    model = Segmentor()
    found = segment_video(model, clip, tmp_path, batch_size=8, save_labels=True)
    assert found['frames'] == 50 and model.batches == [8] * 6 + [2]  # never more than a batch
    assert found['shares'][1] == pytest.approx(0.25, abs=0.03) and found['classes'] == NAMES
    with open_video(found['files']['vis']) as (frames, known):
        assert known['rate'] == 10 and len({frame.shape for frame in frames}) == 1
    labels = sorted(Path(found['files']['pred']).glob('*.png'))
    assert len(labels) == 50 and np.asarray(Image.open(labels[7])).shape == (48, 64)
    found = detect_video(Detector(), clip, tmp_path / 'boxes', batch_size=20)
    lines = Path(found['files']['preds']).read_text().splitlines()
    assert found['objects'] == [0, 50] and len(lines) == 50 and json.loads(lines[0]) == dict(labels=[1, 0])


@pytest.mark.parametrize('content', ['junk', 'empty', 'sound', 'absent'])
def test_what_is_no_video_is_told_and_nothing_is_left(clip, tmp_path, content):
    path = tmp_path / 'bad.mp4'
    path.write_bytes(dict(junk=b'\x00\x01junk' * 99).get(content, b''))
    if content == 'absent':
        path.unlink()
    elif content == 'sound':
        with av.open(str(path), 'w') as container:
            stream = container.add_stream('aac', rate=44100)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono')
            frame.sample_rate = 44100
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    with pytest.raises(DataError, match='bad.mp4'):
        segment_video(Segmentor(), path, tmp_path / 'out')
    assert not list(tmp_path.rglob('vis/*.mp4'))


def test_large_frames_and_an_absent_library_are_told(clip, tmp_path, monkeypatch):
    model = Segmentor()
    model.max_pixels = 100
    with pytest.raises(DataError, match='A frame of .*clip.mp4 has 64 x 48 = 3,072 pixels'):
        segment_video(model, clip, tmp_path)
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(MissingLibraryError, match='extra video'):
        segment_video(Segmentor(), clip, tmp_path)


@pytest.mark.slow
def test_the_program_takes_videos_beside_images(clip, tmp_path, capsys):
    photo = tmp_path / 'photo.png'
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(photo)
    words = [str(photo), str(clip), '--classes', 'empty background', 'star', '--out', str(tmp_path / 'out')]
    segment.main([*words, '--json', str(tmp_path / 'found.json')])
    told = capsys.readouterr().out
    assert 'vis/clip.mp4  (50 frames)' in told and 'vis/photo.png' in told
    rows = json.loads((tmp_path / 'found.json').read_text())
    assert rows[1]['frames'] == 50 and sum(rows[1]['shares'].values()) == pytest.approx(1)
