"""A config with a base by name, ``_base_ = 'vlm_dense::...'``, runs with mmengine's own runner, for every task."""

from __future__ import annotations

import subprocess
import sys

import pytest

RUN = """
import sys
import vlm_dense
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from vlm_dense.engine.runner.launch import fill_class_names

vlm_dense.setup()  # names the package to mmengine
cfg = Config.fromfile(sys.argv[1])
cfg.work_dir = sys.argv[2]
init_default_scope(cfg.default_scope)
fill_class_names(cfg)
runner = Runner.from_cfg(cfg)
runner.build_train_loop(cfg.train_cfg)
batch = next(iter(runner.train_dataloader))
data = runner.model.data_preprocessor(batch, True)
loss, _ = runner.model.parse_losses(runner.model(**data, mode='loss'))
print('visualizer', type(runner.visualizer).__name__, 'loss', loss.item())
"""

BASES = {
    'denseclip/denseclip_shapes.py': 'SegLocalVisualizer',
    'denseclip/denseclip_mask-rcnn_shapes.py': 'DetLocalVisualizer',
    'coop/coop_shapes.py': 'Visualizer',
}


@pytest.mark.parametrize('base', BASES)
def test_a_base_by_name_trains(base, tmp_path):
    config = tmp_path / 'own.py'
    config.write_text(
        f"_base_ = 'vlm_dense::{base}'\n"
        'train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', RUN, str(config), str(tmp_path / 'work')], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f'visualizer {BASES[base]} loss' in done.stdout
    assert 'Failed to search registry' not in done.stdout + done.stderr


def test_a_name_of_ours_wins_over_the_same_name_of_a_task():
    done = subprocess.run(
        [sys.executable, '-c', 'import vlm_dense.registry as r; print(r.DATASETS.get("CocoDataset").__module__)'],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split()[-1] == 'vlm_dense.detection.coco'
