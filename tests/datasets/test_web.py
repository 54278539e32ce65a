"""Training from shards: what the files in a folder give, in an order that is resumed."""

from __future__ import annotations

import io
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from engine.toy import write_config, write_data
from PIL import Image

from vlm_dense.classification.few_shot import FewShotDataset
from vlm_dense.cli import train as train_tool
from vlm_dense.datasets import ShapesDataset, WebDataset
from vlm_dense.engine.runner.shards import ShardSampler
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.inference.bulk.run import run
from vlm_dense.inference.bulk.worker import Worker

CLASSES = ('sky', 'road', 'car')
LOADED = [dict(type='vlm_dense.LoadImage'), dict(type='mmseg.LoadAnnotations')]


@pytest.fixture(scope='module')
def labelled(tmp_path_factory):
    """Ten images, their masks as files, and as shards with and without the images."""
    data = write_data(tmp_path_factory.mktemp('data'))
    worker = Worker(classes=CLASSES, batch_size=4)
    images = data / 'images' / 'train'
    run(worker, images, data / 'files', part_size=4)
    run(worker, images, data / 'shards', 'tar', part_size=4, with_images=True)
    run(worker, images, data / 'apart', 'tar', part_size=4)
    with tarfile.open(data / 'images.tar', 'w') as tar:
        for path in sorted(images.iterdir()):
            tar.add(path, path.name)
    return data


@pytest.mark.parametrize('given', [dict(shards='shards/*.tar'), dict(shards='images.tar', masks='apart/*.tar')])
def test_images_and_masks_are_those_of_the_files(labelled, given):
    data = WebDataset(**given, data_root=str(labelled), pipeline=LOADED, metainfo=dict(classes=CLASSES))
    names = sorted(path.name for path in (labelled / 'images' / 'train').iterdir())
    assert len(data) == len(names) == 10 and sum(data.shard_sizes) == 10
    for name, sample in zip(names, data, strict=True):
        image = np.asarray(Image.open(labelled / 'images' / 'train' / name))[..., ::-1]
        assert (sample['img'] == image).all()
        assert (sample['gt_seg_map'] == np.asarray(Image.open(labelled / 'files' / name))).all()


def test_labels_of_shards_serve_few_shot(tmp_path):
    with tarfile.open(tmp_path / 'a.tar', 'w') as tar:
        for i in range(6):
            for name, content in ((f'{i}.png', _png(i)), (f'{i}.cls', str(i % 2).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    inner = dict(type='vlm_dense.WebDataset', shards=str(tmp_path / 'a.tar'), metainfo=dict(classes=('even', 'odd')))
    few = FewShotDataset(dict(inner, pipeline=LOADED[:1]), shots=2)
    assert sorted(few.get_data_info(i)['gt_label'] for i in range(len(few))) == [0, 0, 1, 1]
    assert few[0]['img'].shape == (4, 4, 3)


def _png(grey: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4), grey, np.uint8)).save(stream, 'PNG')
    return stream.getvalue()


def test_what_is_wrong_with_shards_is_said(labelled, tmp_path):
    whole = (labelled / 'images.tar').read_bytes()
    (tmp_path / 'cut.tar').write_bytes(whole[: len(whole) // 2 // 512 * 512 + 100])
    with pytest.raises(DataError, match=r'cut.tar is no whole tar'):
        WebDataset(str(tmp_path / 'cut.tar'))
    with pytest.raises(DataError, match='There is no shard at'):
        WebDataset(str(tmp_path / 'none-{0..1}.tar'))
    with tarfile.open(tmp_path / 'half.tar', 'w') as tar:
        for path in ('shards/part-000000.tar', 'images.tar'):
            with tarfile.open(labelled / path) as other:
                for member in list(other)[: 2 if path.startswith('shards') else None]:
                    member.name = f'{Path(path).stem}{member.name}'
                    tar.addfile(member, other.extractfile(member))
    with pytest.raises(DataError, match=r'10 of 11 images have no file with .mask.png'):
        WebDataset(str(tmp_path / 'half.tar'))
    (tmp_path / 'b.tar').write_bytes(whole)
    data = WebDataset(str(tmp_path / 'b.tar'), pipeline=LOADED[:1])
    (tmp_path / 'b.tar').write_bytes(whole[:600])
    with pytest.raises(DataError, match='shorter than when it was listed'):
        data[9]


class Sized:
    """A data set of three shards."""

    shard_sizes = (5, 3, 4)

    def __len__(self):
        return 12


def test_the_order_is_that_of_shards_through_a_buffer_and_goes_on_where_it_was(monkeypatch):
    stream = list(islice(ShardSampler(Sized(), buffer=4, seed=1), 36))
    assert all(sorted(stream[i : i + 12]) == list(range(12)) for i in (0, 12, 24)) and stream[:12] != stream[12:24]
    ordered = list(islice(ShardSampler(Sized(), buffer=1, seed=1), 36))
    assert ordered != list(range(12)) * 3
    assert sum(b - a == 1 for a, b in zip(ordered, ordered[1:], strict=False)) >= 27  # nine in each pass, in a shard
    resumed = ShardSampler(Sized(), buffer=4, seed=1)
    resumed.skip(17)
    assert list(islice(resumed, 19)) == stream[17:]
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 2))
        shares.append(list(islice(ShardSampler(Sized(), buffer=4, seed=1), 18)))
    assert shares == [stream[::2], stream[1::2]]
    monkeypatch.undo()
    epochs = ShardSampler(Sized(), buffer=4, length=7, seed=1)
    found = []
    for epoch in range(3):
        epochs.set_epoch(epoch)
        found += list(epochs)
    assert found == stream[:21] and len(epochs) == 7
    with pytest.raises(ConfigError, match='takes a data set of shards'):
        ShardSampler([1, 2], seed=1)


@pytest.mark.slow
def test_a_training_from_shards_is_that_from_files_and_resumes(labelled, tmp_path):
    """The same images in the same order: the same weights, to the bit."""
    shards = (
        "\nown = train_dataloader['dataset']['pipeline']\n"
        "train_dataloader['dataset'] = dict(type='vlm_dense.WebDataset', shards='shards/*.tar', data_root=data_root, "
        'metainfo=metainfo, pipeline=own)\n'
    )
    files = "\ntrain_dataloader['dataset']['data_prefix']['seg_map_path'] = 'files'\n"
    short = "\ntrain_cfg.update(max_iters=4, val_interval=4)\ndefault_hooks['checkpoint']['interval'] = 2\n"
    found = {}
    for name, more in dict(files=files, shards=shards).items():
        toy = write_config(tmp_path, labelled, more + short, name=f'from_{name}')
        train_tool.main([toy, '--work-dir', str(tmp_path / name)])
        found[name] = torch.load(tmp_path / name / 'iter_4.pth', weights_only=False)['state_dict']
    assert all(torch.equal(found['files'][key], found['shards'][key]) for key in found['files'])

    sampler = "\ntrain_dataloader['sampler'] = dict(type='vlm_dense.ShardSampler', buffer=3)\n"
    toy = write_config(tmp_path, labelled, shards + short + sampler, name='in_shard_order')
    whole, stopped = str(tmp_path / 'whole'), tmp_path / 'stopped'
    train_tool.main([toy, '--work-dir', whole])
    train_tool.main([toy, '--work-dir', str(stopped), '--cfg-options', 'train_cfg.max_iters=2'])
    train_tool.main([toy, '--work-dir', str(stopped), '--resume'])
    one, other = (torch.load(f'{folder}/iter_4.pth', weights_only=False)['state_dict'] for folder in (whole, stopped))
    assert all(torch.equal(one[key], other[key]) for key in one)


MASKCLIP_PLUS = """
_base_ = {base!r}
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(_delete_=True, {data}, data_root={root!r},
    pipeline=[dict(type='vlm_dense.LoadImage'), dict(type='LoadAnnotations'),
              dict(type='vlm_dense.SuppressLabels', classes=[1]), dict(type='RandomFlip', prob=0.5),
              dict(type='PackSegInputs')]))
model = dict(clip_unlabeled_cats=[1], unlabeled_cats=[1])  # the others are those of the masks
val_dataloader = dict(num_workers=0, persistent_workers=False)
max_iters = 12
param_scheduler = [dict(type='PolyLR', eta_min=1e-6, power=0.9, by_epoch=False, begin=0, end=12)]
train_cfg = dict(max_iters=12, val_interval=12)
default_hooks = dict(checkpoint=dict(interval=12))
"""


@pytest.mark.long
def test_maskclip_plus_from_what_label_wrote_in_shards_has_the_miou_of_the_folder(tmp_path):
    scene = dict(size=96, num_objects=(2, 5), label='shape', background=True)
    drawn = ShapesDataset(32, **scene, pipeline=[dict(type='vlm_dense.DrawScene')])
    names = drawn.metainfo['classes']
    (tmp_path / 'images').mkdir()
    for i in range(32):
        Image.fromarray(np.ascontiguousarray(drawn[i]['img'][..., ::-1])).save(tmp_path / 'images' / f'{i:02d}.png')
    worker = Worker(classes=names, thresh=0.3)
    run(worker, tmp_path / 'images', tmp_path / 'masks', part_size=10)
    run(worker, tmp_path / 'images', tmp_path / 'shards', 'tar', part_size=10, with_images=True)
    meta = f'metainfo=dict(classes={list(names)})'
    sources = dict(
        folder="type='BaseSegDataset', img_suffix='.png', "
        f"data_prefix=dict(img_path='images', seg_map_path='masks'), {meta}",
        shards=f"type='vlm_dense.WebDataset', shards='shards/*.tar', {meta}",
    )
    base = str(Path('configs/maskclip_plus/maskclip_plus_shapes.py').absolute())
    found = {}
    for name, data in sources.items():
        config = tmp_path / f'maskclip_plus_{name}.py'
        config.write_text(MASKCLIP_PLUS.format(base=base, data=data, root=str(tmp_path)))
        work = tmp_path / f'work_{name}'
        train_tool.main([str(config), '--work-dir', str(work)])
        found[name] = torch.load(work / 'iter_12.pth', weights_only=False)['state_dict']  # mIoU follows from these
    assert all(torch.equal(found['folder'][key], found['shards'][key]) for key in found['folder'])
