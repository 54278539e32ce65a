"""Data of the user's own: found, split, checked and refused as docs/own_data.md says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm_dense.cli import check_data, train
from vlm_dense.datasets import ClassFolderDataset, MaskFolderDataset
from vlm_dense.detection import CocoFileDataset
from vlm_dense.errors import ClassNamesError, ConfigError, DataError

CONFIGS = Path(__file__).parents[2] / 'configs'
MASKS = CONFIGS / 'denseclip' / 'denseclip_own-masks.py'
BOXES = CONFIGS / 'denseclip' / 'denseclip_retinanet_own-coco.py'
FOLDERS = CONFIGS / 'coop' / 'coop_own-folders.py'
NAMES = ['sky', 'road', 'car']


def draw(path: Path, seed: int, size=(48, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def masks(tmp_path) -> Path:
    root = tmp_path / 'masks'
    for i in range(10):
        draw(root / 'images' / f'{i}.{"jpg" if i % 2 else "PNG"}', i)
        labels = np.full((32, 48), i % 3, np.uint8)
        labels[:8] = 255
        (root / 'annotations').mkdir(exist_ok=True)
        Image.fromarray(labels).save(root / 'annotations' / f'{i}.png')
    return root


@pytest.fixture
def boxes(tmp_path) -> Path:
    root = tmp_path / 'boxes'
    content = dict(images=[], annotations=[], categories=[dict(id=7, name='car'), dict(id=9, name='person')])
    for i in range(10):
        draw(root / 'images' / f'{i}.jpg', i)
        content['images'].append(dict(id=i, file_name=f'{i}.jpg', width=48, height=32))
        box = dict(id=i, image_id=i, category_id=(7, 9)[i % 2], bbox=[4, 4, 20, 16], area=320, iscrowd=0)
        content['annotations'].append(box)
    (root / 'annotations.json').write_text(json.dumps(content))
    return root


@pytest.fixture
def folders(tmp_path) -> Path:
    root = tmp_path / 'folders'
    for k, name in enumerate(('fire_truck', 'bus')):
        for i in range(5):
            draw(root / name / f'{i}.jpg', 10 * k + i)
    return root


def check(config: Path, root: Path, capsys, *more: str) -> tuple[int, str]:
    """Status and text of the program."""
    status = check_data.main([str(config), '--data-root', str(root), '--out', str(root.parent / 'out'), *more])
    return status, capsys.readouterr().out


# --- found and split ------------------------------------------------------------------------------------------


def test_every_fifth_image_is_for_validation(masks, boxes, folders):
    meta = dict(classes=NAMES)
    train_set, val_set = (MaskFolderDataset(str(masks), split, meta) for split in ('train', 'val'))
    paths = [[Path(data.get_data_info(i)['img_path']).stem for i in range(len(data))] for data in (train_set, val_set)]
    assert paths == [['0', '1', '2', '3', '5', '6', '7', '8'], ['4', '9']]
    assert [len(CocoFileDataset(str(boxes), split)) for split in ('train', 'val')] == [8, 2]
    assert [len(ClassFolderDataset(str(folders), split)) for split in ('train', 'val')] == [8, 2]


def test_folders_and_files_of_the_splits_come_first(masks, boxes, folders):
    for root, parts in ((masks, ('images', 'annotations')), (folders, ('',))):
        for part in parts:
            place = root / part
            files = sorted(place.iterdir())
            for i, path in enumerate(files):
                for split in ('train', 'val') if not part else (('train', 'val')[i % 2],):
                    (place / split).mkdir(exist_ok=True)
                    (shutil.copytree if path.is_dir() else shutil.copy)(path, place / split / path.name)
                (shutil.rmtree if path.is_dir() else Path.unlink)(path)
    meta = dict(classes=NAMES)
    assert [len(MaskFolderDataset(str(masks), split, meta)) for split in ('train', 'val')] == [5, 5]
    assert [len(ClassFolderDataset(str(folders), split)) for split in ('train', 'val')] == [10, 10]
    content = json.loads((boxes / 'annotations.json').read_text())
    for split in ('train', 'val'):
        (boxes / f'{split}.json').write_text(json.dumps(content))
    assert [len(CocoFileDataset(str(boxes), split)) for split in ('train', 'val')] == [10, 10]


def test_names_come_from_the_file_or_the_folders(boxes, folders):
    assert CocoFileDataset(str(boxes)).metainfo['classes'] == ['car', 'person']
    assert ClassFolderDataset(str(folders)).metainfo['classes'] == ['bus', 'fire truck']
    draw(folders / 'tree' / '0.jpg', 30)
    some = ClassFolderDataset(str(folders), metainfo=dict(classes=['fire truck', 'bus']))
    assert [some.get_data_info(i)['gt_label'] for i in range(len(some))] == [0] * 4 + [1] * 4
    with pytest.raises(ClassNamesError, match="one class, 'bus', and each image would be found to show it"):
        ClassFolderDataset(str(folders), metainfo=dict(classes=['bus']))


def test_what_is_absent_is_named(tmp_path, masks, folders):
    with pytest.raises(ClassNamesError, match='--classes names.txt'):
        MaskFolderDataset(str(masks))
    with pytest.raises(ClassNamesError, match="no folder of the class 'fire trucks'; there are fire truck"):
        ClassFolderDataset(str(folders), metainfo=dict(classes=['fire trucks']))
    with pytest.raises(DataError, match='There is no folder'):
        ClassFolderDataset(str(tmp_path / 'none'))
    with pytest.raises(DataError, match='annotations.json cannot be read .No such file'):
        CocoFileDataset(str(tmp_path))
    with pytest.raises(ConfigError, match="'train' or 'val', found 'test'"):
        ClassFolderDataset(str(folders), split='test')
    (masks / 'images' / 'train').mkdir()
    with pytest.raises(DataError, match='folder train only'):
        MaskFolderDataset(str(masks), metainfo=dict(classes=NAMES))


# --- trained on -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('config', 'kind', 'more'),
    [
        (MASKS, 'masks', ['train_cfg.max_iters=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=1']),
        (FOLDERS, 'folders', ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']),
    ],
)
def test_one_command_trains(config, kind, more, request, tmp_path, capsys):
    root = request.getfixturevalue(kind)
    (tmp_path / 'names.txt').write_text('# in label order\n' + '\n'.join(NAMES))
    classes = ['--classes', str(tmp_path / 'names.txt')] if kind == 'masks' else []
    work_dir = tmp_path / 'run'
    train.main([str(config), '--data-root', str(root), *classes, '--work-dir', str(work_dir), '--cfg-options', *more])
    assert list(work_dir.glob('*_1.pth'))
    console = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(console) if '(train)' in line or 'Saving checkpoint' in line)
    assert start < 25  # lines before the first loss
    log = next(work_dir.glob('*/*.log')).read_text()
    assert 'Hooks will be executed' in log and "type='vlm_dense.ClassFolderDataset'" in log or kind == 'masks'
    assert not any('Hooks will be executed' in line or 'paramwise_options' in line for line in console)


def test_classes_of_published_data_cannot_be_others(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main([str(CONFIGS / 'denseclip_camvid.py'), '--classes', 'sky', 'boat', '--work-dir', str(tmp_path)])
    assert "has no class 'boat'" in capsys.readouterr().err


def test_labels_outside_the_classes_are_told_where_a_pipeline_checks_none(masks, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main(
            [
                *(
                    str(MASKS),
                    '--data-root',
                    str(masks),
                    '--classes',
                    'sky',
                    'road',
                    '--work-dir',
                    str(tmp_path / 'run'),
                ),
                *('--cfg-options', 'train_cfg.max_iters=4', 'train_dataloader.batch_size=8'),
            ]
        )
    assert 'holds the label 2 in' in capsys.readouterr().err


# --- looked at beforehand -------------------------------------------------------------------------------------


def test_a_sound_data_set_has_counts_and_images(masks, boxes, folders, capsys):
    status, text = check(MASKS, masks, capsys, '--classes', *NAMES, '--json', str(masks / 'report.json'))
    report = json.loads((masks / 'report.json').read_text())['train']
    assert report['images'] == 8 and report['unit'] == 'pixels' and report['faults'] == []
    assert report['classes']['sky'] == dict(amount=3456, images=3)
    assert report['classes']['ignored'] == dict(amount=3072, images=8)
    assert status == 0 and 'train: 8 images, all of 48 x 32 px' in text and 'No faults.' in text
    words = ' '.join(text.split())
    assert 'sky 3,456 28.1% 3 road' in words and '(ignored) 3,072 25.0% 8' in words
    for config, root in ((BOXES, boxes), (FOLDERS, folders)):
        status, text = check(config, root, capsys)
        assert status == 0 and 'No faults.' in text
        with Image.open(root.parent / 'out' / 'train.png') as image:
            assert image.width > 200


def rewrite(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def save_mask(path: Path, labels) -> None:
    Image.fromarray(np.asarray(labels, np.uint8)).save(path)


BROKEN = {
    'no mask': (MASKS, lambda r: (r / 'annotations' / '3.png').unlink(), 'annotations/3.png does not exist'),
    'label outside': (MASKS, lambda r: save_mask(r / 'annotations/3.png', np.full((32, 48), 7)), 'the label 7 in 1536'),
    'mask in colours': (MASKS, lambda r: save_mask(r / 'annotations/3.png', np.zeros((32, 48, 3))), '3 channels'),
    'mask of another size': (MASKS, lambda r: save_mask(r / 'annotations/3.png', np.zeros((16, 48))), '48x16 pixels'),
    'cut image': (MASKS, lambda r: (r / 'images/3.jpg').write_bytes((r / 'images/3.jpg').read_bytes()[:90]), 'cut'),
    'empty mask file': (MASKS, lambda r: (r / 'annotations' / '3.png').write_bytes(b''), 'cannot be read: it is empty'),
    'no images': (MASKS, lambda r: [p.unlink() for p in (r / 'images').iterdir()], 'No image for the train set'),
    'image absent': (BOXES, lambda r: (r / 'images/3.jpg').unlink(), '1 do not exist'),
    'size of another image': (BOXES, lambda r: draw(r / 'images/3.jpg', 3, (32, 48)), 'annotations say 48 x 32'),
    'unknown category': (
        BOXES,
        lambda r: rewrite(r / 'annotations.json', lambda c: c['annotations'][2].update(category_id=5)),
        'category_id 5',
    ),
    'no coco': (BOXES, lambda r: (r / 'annotations.json').write_text('[1'), 'cannot be read as COCO'),
    'text as image': (FOLDERS, lambda r: (r / 'bus/3.jpg').write_text('no image'), 'bus/3.jpg (8 bytes) cannot'),
    'empty class': (FOLDERS, lambda r: (r / 'van').mkdir(), 'No image for the train set in'),
}
"""Kind of fault -> config, how it comes about, what is said of it."""


@pytest.mark.parametrize('kind', BROKEN)
def test_a_fault_is_told_with_its_file(kind, request, capsys):
    config, breaks, message = BROKEN[kind]
    root = request.getfixturevalue({MASKS: 'masks', BOXES: 'boxes', FOLDERS: 'folders'}[config])
    breaks(root)
    status, text = check(config, root, capsys, *(['--classes', *NAMES] if config == MASKS else []))
    assert status == 1 and message in text and 'fix these files before training' in text


def test_what_is_probably_not_meant_is_remarked(masks, boxes, capsys):
    shutil.copy(masks / 'images' / '3.jpg', masks / 'images' / '9.jpg')
    save_mask(masks / 'annotations' / '5.png', np.full((32, 48), 255))
    status, text = check(MASKS, masks, capsys, '--classes', *NAMES, 'boat')
    assert status == 0 and 'No image shows boat.' in text and '5.png has no labels: all its pixels are ign' in text
    assert '1 images are in train and in val' in text
    rewrite(boxes / 'annotations.json', lambda c: c['annotations'][2].update(bbox=[60, 4, 10, 10]))
    status, text = check(BOXES, boxes, capsys)
    assert status == 0 and '1 boxes have no area or lie outside their image and are left out: ids 2.' in text
