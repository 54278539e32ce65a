"""torch.hub finds the models of a clone, and the Dockerfile passes its linter."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
NAMES = ['background', 'circle', 'star']


def load(entry, *args, **kwargs):
    path = list(sys.path)  # torch.hub adds the folder and leaves it there when an entry fails
    try:
        return torch.hub.load(str(ROOT), entry, *args, source='local', **kwargs)
    finally:
        sys.path[:] = path


def test_a_model_of_the_hub_is_that_of_get_model():
    import vlm_dense

    ours = load('model', 'denseclip_shapes', class_names=NAMES)
    image = torch.zeros(1, 3, 64, 64)
    torch.manual_seed(0)
    expected = vlm_dense.get_model('denseclip_shapes', class_names=NAMES)
    expected.load_state_dict(ours.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(image), expected(image))


def test_a_segmentor_a_classifier_and_a_clip_of_the_hub():
    (found,) = load('classifier', classes=NAMES)(torch.zeros(3, 64, 64))['predictions']
    assert found['name'] in NAMES
    result = load('segmentor', classes=NAMES, show_progress=False)(torch.zeros(64, 64, 3, dtype=torch.uint8).numpy())
    assert result['predictions'].shape == (64, 64)
    assert load('clip', 'tiny-vit', 'bundled').encode_image(torch.zeros(1, 3, 64, 64)).shape[0] == 1


def test_the_dockerfile_passes_its_linter():
    linter = shutil.which('hadolint', path=str(Path(sys.executable).parent)) or shutil.which('hadolint')
    if linter is None:
        pytest.skip('hadolint is not installed; it comes with the extra tests')
    done = subprocess.run([linter, str(ROOT / 'Dockerfile')], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
