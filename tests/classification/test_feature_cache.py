"""Features on disk are those of the tower, found again only for what made them, and never stale."""

from __future__ import annotations

import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from engine.processes import in_processes
from mmengine.dataset import BaseDataset, pseudo_collate
from tiny_towers import vit
from torch.utils.data import DataLoader

from vlm_dense.engine.runner.seeding import SeededDataset, SeededSampler
from vlm_dense.errors import ConfigError
from vlm_dense.registry import DATASETS, MODELS

ARCH = vit()


class Photos(BaseDataset):
    """Images of a folder, the label in the name."""

    METAINFO = dict(classes=('a', 'b', 'c'))
    read = 0

    def load_data_list(self):
        names = sorted(os.listdir(self.data_root))
        return [dict(img_path=os.path.join(self.data_root, n), gt_label=int(n[0])) for n in names]

    def __getitem__(self, index):
        type(self).read += 1
        return super().__getitem__(index)


def pipeline(size=32, random=False) -> list[dict]:
    crop = dict(type='RandomResizedCrop', size=size) if random else dict(type='Resize', size=(size, size))
    transforms = dict(type='vlm_dense.TorchvisionTransforms', transforms=[crop])
    return [dict(type='vlm_dense.LoadImage'), transforms, dict(type='vlm_dense.PackClsInputs')]


def image(path, seed: int) -> None:
    noise = np.random.RandomState(seed).randint(0, 255, (8, 8, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (40, 40), interpolation=cv2.INTER_NEAREST))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'photos').mkdir()
    for index, label in enumerate((0, 1, 2, 0, 1, 2, 0)):
        image(tmp_path / 'photos' / f'{label}_{index}.bmp', index)
    return tmp_path


def build(seed: int = 0, **kwargs):
    torch.manual_seed(seed)
    cfg = dict(
        type='vlm_dense.CLIPClassifier',
        class_names=['a', 'b', 'c'],
        data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3),
        backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True),
        text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt'),
    )
    return MODELS.build(cfg | kwargs).eval()


def features(folder, model, images=None, **kwargs):
    """A prepared feature data set, and how many images it had to read."""
    images = images or dict(type=Photos, data_root=str(folder / 'photos'), pipeline=pipeline())
    cfg = dict(type='vlm_dense.FeatureDataset', dataset=images, cache_dir=str(folder / 'features'), batch_size=3)
    dataset = DATASETS.build(cfg | kwargs)
    dataset.full_init()
    Photos.read = 0
    dataset.prepare(model)
    return dataset, Photos.read


def of_tower(model, images: dict) -> torch.Tensor:
    """Features of the images as they are."""
    batch = model.data_preprocessor(pseudo_collate(list(DATASETS.build(images))))
    with torch.no_grad():
        return model.backbone.encode(batch['inputs'], ('global',)).global_


SEEDS = [598389851968483316, 1072291823314373575]  # a change of their digest changes every figure of a run on features
CHECK = 4  # images that each run reads again


def test_features_take_the_place_of_images_and_are_read_from_disk(folder):
    model = build()
    images = dict(type=Photos, data_root=str(folder / 'photos'), pipeline=pipeline())
    dataset, read = features(folder, model)
    assert read == 7 and len(dataset) == 7 and dataset.metainfo['classes'] == ('a', 'b', 'c')
    wanted = of_tower(model, images)
    torch.testing.assert_close(torch.stack([dataset[i]['inputs']['global_'] for i in range(7)]), wanted)
    again, read = features(folder, model)
    assert read == CHECK
    for i in range(7):
        assert torch.equal(again[i]['inputs']['global_'], dataset[i]['inputs']['global_'])
        assert again[i]['data_samples'].img_path == dataset[i]['data_samples'].img_path
        assert int(again[i]['data_samples'].gt_label) == (0, 0, 0, 1, 1, 2, 2)[i]
    loaded = next(iter(DataLoader(again, 7, collate_fn=pseudo_collate)))
    with torch.no_grad():
        logits = model(**{**model.data_preprocessor(loaded), 'mode': 'tensor'})
        plain = model(**{**model.data_preprocessor(pseudo_collate(list(DATASETS.build(images)))), 'mode': 'tensor'})
    torch.testing.assert_close(logits, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    'change',
    [
        lambda m: m.backbone.conv1.weight.data.view(-1)[5].add_(1e-4),
        lambda m: m.data_preprocessor.mean.add_(1e-3),
        lambda m: setattr(m.data_preprocessor, '_channel_conversion', True),
    ],
    ids=['weights', 'normalisation', 'channels'],
)
def test_another_tower_or_normalisation_finds_nothing(folder, change):
    model = build()
    features(folder, model)
    with torch.no_grad():
        change(model)
    images = dict(type=Photos, data_root=str(folder / 'photos'), pipeline=pipeline())
    dataset, read = features(folder, model)
    assert read == 7
    torch.testing.assert_close(dataset[3]['inputs']['global_'], of_tower(model, images)[3])


def test_another_pipeline_finds_nothing(folder):
    features(folder, build())
    images = dict(type=Photos, data_root=str(folder / 'photos'), pipeline=pipeline(size=24))
    dataset, read = features(folder, build(), images)
    assert read == 7
    torch.testing.assert_close(dataset[0]['inputs']['global_'], of_tower(build(), images)[0])


def test_a_changed_file_is_read_again_even_with_its_old_size_and_time(folder):
    model = build()
    features(folder, model)
    path = folder / 'photos' / '1_1.bmp'
    stat = path.stat()
    time.sleep(0.02)
    image(path, 77)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    images = dict(type=Photos, data_root=str(folder / 'photos'), pipeline=pipeline())
    dataset, read = features(folder, model)
    assert read == CHECK + 1
    torch.testing.assert_close(dataset[3]['inputs']['global_'], of_tower(model, images)[3])


def test_a_changed_label_is_that_of_the_data(folder, monkeypatch):
    features(folder, build())
    before = Photos.load_data_list
    monkeypatch.setattr(
        Photos, 'load_data_list', lambda self: [dict(i, gt_label=2 - i['gt_label']) for i in before(self)]
    )
    dataset, _ = features(folder, build())
    assert [int(dataset[i]['data_samples'].gt_label) for i in range(7)] == [2, 2, 2, 1, 1, 0, 0]


def test_changed_code_of_a_transform_is_noticed(folder, monkeypatch):
    from vlm_dense.classification.transforms import TorchvisionTransforms

    model = build()
    features(folder, model)
    before = TorchvisionTransforms.transform
    monkeypatch.setattr(TorchvisionTransforms, 'transform', lambda self, r: before(self, dict(r, img=255 - r['img'])))
    images = dict(type=Photos, data_root=str(folder / 'photos'), pipeline=pipeline())
    dataset, read = features(folder, model)
    assert read == CHECK + 7
    wanted = of_tower(model, images)
    torch.testing.assert_close(torch.stack([dataset[i]['inputs']['global_'] for i in range(7)]), wanted)


def test_a_larger_set_finds_what_a_smaller_one_wrote_and_damaged_files_are_computed_again(folder):
    model = build()
    images = dict(type=Photos, data_root=str(folder / 'photos'), pipeline=pipeline())
    features(folder, model, dict(images, indices=5))
    dataset, read = features(folder, model)
    assert read == CHECK + 2
    for file in (folder / 'features').glob('*/*.pt'):
        file.write_bytes(file.read_bytes()[:100])
    again, read = features(folder, model)
    assert read == 7
    torch.testing.assert_close(again[6]['inputs']['global_'], dataset[6]['inputs']['global_'])


def test_copies_differ_repeat_and_follow_the_epoch(folder):
    model = build()
    images = dict(type=Photos, data_root=str(folder / 'photos'), pipeline=pipeline(random=True))
    torch.manual_seed(3)
    dataset, read = features(folder, model, images, copies=3)
    assert read == 21
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(3))  # the run's numbers go on
    seeded = SeededDataset(dataset)
    epochs = []
    for epoch in range(4):
        seeded.set_epoch(epoch)
        epochs.append(torch.stack([seeded[i]['inputs']['global_'] for i in range(7)]))
    assert torch.equal(epochs[0], epochs[3])
    assert all((epochs[a] - epochs[b]).abs().amax(1).min() > 1e-3 for a, b in ((0, 1), (1, 2), (0, 2)))
    for name in (folder / 'features').glob('*/*.pt'):
        name.unlink()
    again, _ = features(folder, model, dict(images, indices=2), copies=2)
    again.set_epoch(1)
    torch.testing.assert_close(again[1]['inputs']['global_'], epochs[1][1])


def test_the_same_image_on_another_disk_is_drawn_alike(folder):
    model = build()
    images = dict(type=Photos, data_root=str(folder / 'photos'), pipeline=pipeline(random=True))
    before, _ = features(folder, model, images)
    for path in (folder / 'photos').iterdir():
        data = path.read_bytes()
        path.unlink()
        time.sleep(0.02)
        path.write_bytes(data)
    again, read = features(folder, model, images)
    assert read == 7  # other files
    for i in range(7):
        torch.testing.assert_close(again[i]['inputs']['global_'], before[i]['inputs']['global_'])


def test_seeds_are_those_of_the_published_figures():
    scenes = dict(type='vlm_dense.ShapesDataset', num_scenes=2, size=64, num_objects=(1, 1), pipeline=[])
    dataset = DATASETS.build(dict(type='vlm_dense.FeatureDataset', dataset=scenes))
    dataset.full_init()
    assert [dataset._seed(1, copy) for copy in (0, 3)] == SEEDS


def test_a_pipeline_that_reads_the_number_of_an_image_has_features_of_its_own(folder):
    model, few = build(), [2, 3]
    told = pipeline()
    told[-1]['meta_keys'] = ('img_path', 'sample_idx')
    images = dict(type=Photos, data_root=str(folder / 'photos'), pipeline=told)
    features(folder, model, images)
    chosen, read = features(folder, model, dict(images, indices=few))
    assert read == 2
    assert [chosen[i]['data_samples'].sample_idx for i in range(2)] == [0, 1]


def test_what_cannot_be_is_refused(folder):
    images = dict(type=Photos, data_root=str(folder / 'photos'), pipeline=pipeline())
    bare = DATASETS.build(dict(type='vlm_dense.FeatureDataset', dataset=images))
    with pytest.raises(ConfigError, match='has not seen the model. Add .*PrepareHook'):
        bare[0]
    with pytest.raises(ConfigError, match='this model trains it'):
        bare.prepare(build(frozen_backbone=False))
    with pytest.raises(ConfigError, match='this model prompts it'):
        bare.prepare(build(image_prompt=dict(type='vlm_dense.VPTPrompt', num_tokens=1)))
    with pytest.raises(ConfigError, match='copies must be at least 1'):
        DATASETS.build(dict(type='vlm_dense.FeatureDataset', dataset=images, copies=0))


def test_data_workers_that_live_through_epochs_see_each(folder):
    images = dict(type=Photos, data_root=str(folder / 'photos'), pipeline=pipeline(random=True))
    dataset, _ = features(folder, build(), images, copies=2)
    loader = DataLoader(dataset, 7, num_workers=1, persistent_workers=True, collate_fn=pseudo_collate)
    epochs = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        epochs.append(torch.stack(next(iter(loader))['inputs']['global_']))
    assert torch.equal(epochs[0], epochs[2]) and (epochs[0] - epochs[1]).abs().amax(1).min() > 1e-3


@pytest.mark.parametrize('workers', [0, 1])
def test_a_loop_of_iterations_sees_another_copy_in_each_pass(folder, workers):
    images = dict(type=Photos, data_root=str(folder / 'photos'), pipeline=pipeline(random=True))
    dataset, _ = features(folder, build(), images, copies=2)
    seeded = SeededDataset(dataset)
    sampler = SeededSampler(dict(type='InfiniteSampler', shuffle=False), seeded, 0)
    batches = iter(DataLoader(seeded, 7, sampler=sampler, num_workers=workers, collate_fn=pseudo_collate))
    passes = [torch.stack(next(batches)['inputs']['global_']) for _ in range(3)]
    assert torch.equal(passes[0], passes[2]) and (passes[0] - passes[1]).abs().amax(1).min() > 1e-3


def test_numbers_that_were_changed_on_the_disk_are_computed_again(folder):
    model = build()
    dataset, _ = features(folder, model)
    wanted = torch.stack([dataset[i]['inputs']['global_'] for i in range(7)])
    for file in (folder / 'features').glob('*/*.pt'):
        content = torch.load(file, weights_only=True)
        content['features']['global_'][2] += 1
        torch.save(content, file)
    again, read = features(folder, model)
    assert read == 7
    torch.testing.assert_close(torch.stack([again[i]['inputs']['global_'] for i in range(7)]), wanted)


def prepare_a_share(rank: int, folder: str) -> None:
    dataset, read = features(Path(folder), build())
    assert read == (4, 3)[rank], read
    torch.save(torch.stack([dataset[i]['inputs']['global_'] for i in range(7)]), f'{folder}/{rank}.pth')
    torch.distributed.barrier()
    again, read = features(Path(folder), build())
    assert read == CHECK, read


def test_processes_compute_a_share_each(folder):
    in_processes(2, prepare_a_share, str(folder))
    first, second = (torch.load(folder / f'{rank}.pth') for rank in range(2))
    wanted = of_tower(build(), dict(type=Photos, data_root=str(folder / 'photos'), pipeline=pipeline()))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, wanted)
