"""The stand-in for mmcv's compiled module: where it comes in, where it keeps out, what it says."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import runpy
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

from vlm_dense.ops import is_stand_in  # before mmcv.ops

ROOT = Path(__file__).parents[2]
BOXES = 'torch.tensor([[0, 0, 9, 9], [0, 0, 9, 8], [20, 0, 29, 9.0]]), torch.tensor([0.5, 0.9, 0.7])'


without_compiled = pytest.mark.skipif(not is_stand_in(), reason='mmcv has its compiled kernels')


def run(code, *args, **env):
    """What a new interpreter prints."""
    code = textwrap.dedent(code)
    command = [sys.executable, '-W', 'ignore', *args] if args else [sys.executable, '-W', 'ignore', '-c', code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, 'OMP_NUM_THREADS': '1', **env}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_importing_anything_of_ours_puts_it_in_place_and_loads_neither_torch_nor_mmcv():
    for module in ('vlm_dense', 'vlm_dense.ops', 'vlm_dense.errors'):
        found = run(f"""
            import {module}, sys
            print(type(sys.meta_path[-1]).__name__, {{'torch', 'torchvision', 'mmcv', 'mmengine'}} & set(sys.modules))
        """)
        assert found.strip() == 'StandInFinder set()'


_MMDET_FIRST = f"""
import sys, torch
import mmdet.structures.mask, mmdet.utils
try:
    import mmdet.models
except ModuleNotFoundError as error:
    print(error)
import vlm_dense.ops
import mmdet.models
from mmdet.models.dense_heads.base_dense_head import batched_nms
from mmdet.models.layers.transformer.deformable_detr_layers import MultiScaleDeformableAttention
from mmdet.structures.mask import BitmapMasks
print(batched_nms({BOXES}, torch.tensor([0, 0, 1]), dict(type='nms', iou_threshold=0.5))[1].tolist())
print(MultiScaleDeformableAttention(8, 2).embed_dims)
import numpy as np
mask = BitmapMasks(np.eye(8, dtype=np.uint8)[None], 8, 8)
print(mask.crop_and_resize(np.array([[0, 0, 8, 8.0]]), (4, 4), torch.tensor([0]), device='cpu').masks.shape)
from mmdet.registry import MODELS
print(MODELS.get('DCNv2').__name__, MODELS.get('MaskRCNN').__name__)
"""


@without_compiled
def test_mmdet_imported_in_vain_before_it():
    """What mmdet defined instead of the missing kernels gives way to them."""
    lines = run(_MMDET_FIRST).strip().split('\n')
    assert "No module named 'mmcv._ext'" in lines[-5]
    assert lines[-4:] == ['[1, 2]', '8', '(1, 4, 4)', 'ModulatedDeformConv2dPack MaskRCNN']


_STOCK_SAN = """
from pathlib import Path
import mmseg, torch
from mmengine import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

init_default_scope('mmseg')
cfg = Config.fromfile(Path(mmseg.__file__).parent / '.mim/configs/_base_/models/san_vit-b16.py')
decoder = dict(num_heads=2, embed_channels=8, mlp_channels=8)
side = dict(clip_channels=48, embed_dims=24, num_queries=5, cfg_encoder=dict(num_heads=2), cfg_decoder=decoder)
head = dict(num_classes=3, san_cfg=side, train_cfg=dict(num_points=32))
head['maskgen_cfg'] = dict(sos_token_num=5, embed_dims=48, num_heads=2, out_dims=32)
text = dict(vocabulary=['sky', 'road', 'dog'], embed_dims=32, num_layers=1, num_heads=2, output_dims=32)
image = dict(embed_dims=48, num_heads=2, img_size=(32, 32), patch_size=8)
cfg.merge_from_dict(dict(model=dict(pretrained=None, image_encoder=image, text_encoder=text, decode_head=head)))
cfg.model.decode_head.loss_decode[0].class_weight = [1.0, 1.0, 1.0, 0.1]
cfg.model.pop('data_preprocessor')
torch.manual_seed(0)
model = MODELS.build(cfg.model).train()
for p in model.parameters():
    if p.dim() > 1:
        torch.nn.init.normal_(p, std=0.02)
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.SGD(trained, 1e-3)
labels = torch.randint(3, (2, 1, 64, 64))
meta = dict(img_shape=(64, 64), ori_shape=(64, 64))
samples = [SegDataSample(gt_sem_seg=PixelData(data=one), metainfo=meta) for one in labels]
images = torch.randn(2, 3, 64, 64)
first, _ = model.parse_losses(model.loss(images, samples))
first.backward()
optimizer.step()
second, _ = model.parse_losses(model.loss(images, samples))
print(first.isfinite().item(), second.isfinite().item(), all(p.grad is not None for p in trained))
"""


@without_compiled
def test_mmseg_imported_before_it_and_its_own_san_trains():
    found = run(
        """
        import torch
        import mmseg.models
        from mmseg.models.decode_heads import PointHead, point_head
        print(point_head.point_sample)
        import vlm_dense
        head = PointHead(
            num_classes=3, in_channels=[8], channels=8, in_index=[0], dropout_ratio=0
        )
        points = torch.tensor([[[0.5, 0.5], [0.25, 0.75]]])
        print(point_head.point_sample(torch.arange(16.0).view(1, 1, 4, 4), points).flatten().tolist())
        coarse, fine = torch.rand(1, 3, 4, 4), [torch.rand(1, 8, 8, 8)]
        cfg = type('', (), dict(num_points=8, oversample_ratio=3, importance_sample_ratio=0.75))
        print(head.get_points_train(coarse, lambda x: -x[:, :1], cfg).shape)
        """
        + textwrap.indent(_STOCK_SAN, ' ' * 8)
    )
    lines = found.strip().split('\n')
    assert lines[-4:] == ['None', '[7.5, 10.5]', 'torch.Size([1, 8, 2])', 'True True True']


_WORKERS = f"""
import multiprocessing, torch


class Collate:
    def __call__(self, rows):
        from mmcv.ops import bbox_overlaps
        rows = torch.stack(rows)
        return bbox_overlaps(rows, rows)


def main():
    import vlm_dense.ops
    from mmcv.ops import nms
    for method in ('forkserver', 'fork'):  # the loader's is spawned
        worker = multiprocessing.get_context(method).Process(target=nms, args=({BOXES}, 0.5))
        worker.start()
        worker.join()
        print(method, worker.exitcode)
    rows = torch.tensor([[0, 0, 8, 8], [0, 0, 8, 2.0]])
    loader = torch.utils.data.DataLoader(rows, 2, collate_fn=Collate(), num_workers=1, multiprocessing_context='spawn')
    print([batch.tolist() for batch in loader])


if __name__ == '__main__':
    main()
"""


@without_compiled
def test_worker_processes_have_it(tmp_path):
    """Also those that import nothing of ours themselves: what they are to run comes from ``mmcv.ops``."""
    script = tmp_path / 'script.py'
    script.write_text(_WORKERS)
    lines = run('', str(script)).strip().split('\n')
    assert lines == ['forkserver 0', 'fork 0', str([[[1.0, 0.25], [0.25, 1.0]]])]


def test_a_compiled_module_comes_first(tmp_path):
    """Any module that the installation itself has under the name wins, and if it does not load, its error stays."""
    for folder, content in (('good', 'def nms(*_, **__):\n    return "compiled"'), ('bad', 'raise OSError("no GPU")')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / '_ext.py').write_text(content)
    found = run(f"""
        import sys
        import vlm_dense.ops
        import mmcv
        path = mmcv.__path__[:]
        mmcv.__path__ = [{str(tmp_path / 'bad')!r}, *path]
        try:
            import mmcv._ext
        except OSError as error:
            print(error)
        mmcv.__path__ = [{str(tmp_path / 'good')!r}, *path]
        from vlm_dense.ops import __main__ as table
        import mmcv._ext
        print(mmcv._ext.nms(), table.is_stand_in(), 'vlm_dense.ops.extension' in sys.modules)
        table.main([])
    """)
    lines = found.strip().split('\n')
    assert lines[:2] == ['no GPU', 'compiled False False']
    assert any(re.match(r'nms +real +mmcv.ops.nms$', line) for line in lines)
    assert not any('torchvision' in line for line in lines)


@without_compiled
def test_the_table_lists_every_kernel_that_mmcv_asks_for(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['ops'])
    with pytest.raises(SystemExit, match='0'):
        runpy.run_module('vlm_dense.ops', run_name='__main__')
    rows = dict(line.split()[:2] for line in capsys.readouterr().out.strip().split('\n'))
    assert rows['nms'] == rows['softnms'] == rows['roi_align_backward'] == 'torchvision'
    assert rows['deform_conv_backward_input'] == rows['ms_deform_attn_forward'] == 'torchvision'
    assert rows['nms_rotated'] == rows['deform_roi_pool_forward'] == rows['psamask_forward'] == 'torchvision'
    assert rows['iou3d_nms3d_forward'] == rows['furthest_point_sampling_forward'] == 'absent'
    assert set(rows.values()) == {'torchvision', 'absent'}
    sources = (Path(importlib.util.find_spec('mmcv').origin).parent / 'ops').glob('*.py')
    called = set().union(*(re.findall(r'ext_module\.(\w+)', path.read_text()) for path in sources))
    assert called <= set(rows)


@without_compiled
def test_an_absent_kernel_names_itself_and_the_way_to_a_compiled_mmcv():
    import torch
    from mmcv import _ext, ops

    with pytest.raises(NotImplementedError, match=r'convex_iou is a compiled kernel.*pip install .*onedl-mmcv'):
        ops.convex_iou(torch.rand(2, 18), torch.rand(2, 8))
    with pytest.raises(NotImplementedError, match='prroi_pool_forward'):
        ops.prroi_pool(torch.rand(1, 1, 4, 4), torch.rand(1, 5), (2, 2), 1.0)
    with pytest.raises(AttributeError, match='__wrapped__'):
        _ext.__wrapped__  # noqa: B018
    with pytest.raises(NotImplementedError, match='knn_forward'):
        pickle.loads(pickle.dumps(_ext.knn_forward))()
    assert pickle.loads(pickle.dumps(_ext.nms)) is _ext.nms


@without_compiled
def test_the_environment_report_says_what_is_used():
    from mmcv.utils import collect_env

    assert 'vlm_dense.ops on torchvision' in collect_env()['MMCV Compiler']


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
    """A virtual environment that has this one's packages, and its Python."""
    folder = tmp_path_factory.mktemp('env')
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob('lib/python*/site-packages')
    (packages / '_paths.pth').write_text(f'{ROOT}\n{Path(importlib.util.find_spec("torch").origin).parents[1]}\n')
    return packages, str(folder / 'bin' / 'python')


def in_environment(python, *args):
    """Status, standard output and standard error of a Python that knows nothing but its environment."""
    variables = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'} | dict(OMP_NUM_THREADS='1')
    done = subprocess.run(
        [python, '-W', 'ignore', *args],
        capture_output=True,
        text=True,
        check=False,
        env=variables,
        cwd=Path(python).parent,
    )
    return done.returncode, done.stdout, done.stderr


_STOCK = f"""
import mmdet.models, torch, sys
from mmdet.models.dense_heads.base_dense_head import batched_nms
print(batched_nms({BOXES}, torch.tensor([0, 0, 1]), dict(type='nms', iou_threshold=0.5))[1].tolist())
"""
_SWITCHED = "import sys; print('vlm_dense.ops' in sys.modules, {'torch', 'mmcv'} & set(sys.modules))"


@without_compiled
def test_the_switch_serves_programs_that_import_nothing_of_ours(environment):
    packages, python = environment
    switch = packages / 'vlm_dense_ops.pth'
    status, _, error = in_environment(python, '-c', 'import mmcv.ops')
    assert status == 1 and "No module named 'mmcv._ext'" in error
    assert in_environment(python, '-m', 'vlm_dense.ops', 'status') == (0, f'off: no {switch}\n', '')
    for _ in range(2):
        status, output, error = in_environment(python, '-m', 'vlm_dense.ops', 'install')
        assert (status, error) == (0, '') and output.startswith(f'on: {switch}\n')
    assert in_environment(python, '-m', 'vlm_dense.ops', 'status') == (0, f'on: {switch}\n', '')
    assert in_environment(python, '-c', _SWITCHED) == (0, 'True set()\n', '')
    status, output, error = in_environment(python, '-c', _STOCK)
    assert status == 0 and output.strip().endswith('[1, 2]'), error
    assert in_environment(python, '-m', 'vlm_dense.ops', 'uninstall') == (0, f'off: {switch} is removed\n', '')
    assert not switch.exists()
    assert in_environment(python, '-m', 'vlm_dense.ops', 'uninstall') == (0, f'off: there was no {switch}\n', '')
    assert in_environment(python, '-c', _SWITCHED) == (0, 'False set()\n', '')


@without_compiled
def test_the_switch_is_silent_once_vlm_dense_is_gone(environment):
    packages, python = environment
    from vlm_dense.ops import switch

    paths, line = packages / '_paths.pth', packages / 'vlm_dense_ops.pth'
    kept = paths.read_text()
    try:
        line.write_text(switch.LINE)
        paths.write_text('')
        assert in_environment(python, '-c', 'print(1)') == (0, '1\n', '')
    finally:
        paths.write_text(kept)
        line.unlink()


def test_the_switch_refuses_where_it_would_have_no_effect(tmp_path, monkeypatch, capsys):
    from vlm_dense.ops import __main__ as program
    from vlm_dense.ops import switch

    monkeypatch.setattr(switch, 'path', lambda: tmp_path / 'packages' / 'vlm_dense_ops.pth')
    monkeypatch.setattr(program, 'is_stand_in', lambda: True)
    assert program.main(['install']) == 1 and 'cannot be written' in capsys.readouterr().err
    (tmp_path / 'packages').mkdir()
    assert program.main(['install']) == 1 and 'does not find vlm_dense' in capsys.readouterr().err
    assert not list((tmp_path / 'packages').iterdir())
    monkeypatch.setattr(program, 'is_stand_in', lambda: False)
    assert program.main(['install']) == 1 and 'compiled kernels' in capsys.readouterr().err
