"""Labels and features of any number of images: the same from every source, in every share, after every stop."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from vlm_dense.cli import label as program
from vlm_dense.cli.bulk import share_of
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.inference import ClassInferencer, SegInferencer
from vlm_dense.inference.bulk import sources
from vlm_dense.inference.bulk.run import INDEX, NOTES, _share, run
from vlm_dense.inference.bulk.worker import Worker

CLASSES = ['empty background', 'circle', 'star']
SIZES = ((60, 80), (80, 60), (60, 80), (70, 70), (64, 96), (60, 80))


@pytest.fixture(scope='module')
def worker():
    return Worker(classes=CLASSES, batch_size=2)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Seven images, one of them damaged, in a folder with another one in it: crops of a drawn figure."""
    folder = tmp_path_factory.mktemp('images')
    figure = Image.open('docs/images/shapes.png').convert('RGB').resize((260, 155))
    (folder / 'more').mkdir()
    for i, (height, width) in enumerate(SIZES):
        place = folder / 'more' if i == 5 else folder
        figure.crop((20 * i, 5 * i, 20 * i + width, 5 * i + height)).save(place / f'{"edcbaf"[i]}.png')
    (folder / 'bad.jpg').write_bytes(b'no image')
    return folder


@pytest.fixture(scope='module')
def once(worker, images, tmp_path_factory):
    """One run over the folder, two images a part."""
    out = tmp_path_factory.mktemp('results') / 'once'
    return out, run(worker, images, out, part_size=2)


def content(folder: Path) -> dict[str, bytes]:
    """Results by name, and the index and the manifests with them."""
    notes = [path for path in folder.rglob('*') if path.is_file() and path.suffix != '.lock']
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in notes}


def written(folder: Path) -> dict[str, bytes]:
    """Results alone."""
    return {
        name: data for name, data in content(folder).items() if not name.startswith(NOTES) and name != INDEX
    }  # fmt: skip


def shard_of(images: Path, path: Path, chosen=slice(None)) -> Path:
    with tarfile.open(path, 'w') as tar:
        for each in sorted(images.glob('*.*'))[chosen]:
            tar.add(each, each.name)
            info = tarfile.TarInfo(f'{each.stem}.json')
            tar.addfile(info, io.BytesIO())
    return path


def test_masks_are_those_of_the_inferencer_and_a_bad_image_is_listed(once, images):
    out, found = once
    assert found['images'] == 6 and list(found['bad_files']) == ['bad'] and found['parts'] == 4
    assert json.loads((out / INDEX).read_text()) == found
    one = SegInferencer(classes=CLASSES, show_progress=False)
    pixels = np.zeros(len(CLASSES), int)
    for image in images.rglob('*.png'):
        mask = np.asarray(Image.open(out / image.relative_to(images)))
        assert np.mean(mask == one(str(image))['predictions']) > 0.999  # other images share the batch: rounding
        pixels += np.bincount(mask.ravel(), minlength=len(CLASSES))
    assert found['histogram'] == dict(zip(CLASSES, pixels / pixels.sum(), strict=True)) and found['kept'] == 1


@pytest.mark.slow
def test_a_list_a_shard_and_a_table_give_what_the_folder_gives(worker, images, once, tmp_path):
    expected = {Path(name).name: data for name, data in written(once[0]).items()}
    (images / 'list.txt').write_text(''.join(f'{p.relative_to(images)}\n' for p in sorted(images.rglob('*.*g'))))
    run(worker, images / 'list.txt', tmp_path / 'list', part_size=2)
    (images / 'list.txt').unlink()
    assert {Path(name).name: data for name, data in written(tmp_path / 'list').items()} == expected
    for i, chosen in enumerate((slice(2), slice(2, None))):
        shard_of(images, tmp_path / f'shard-{i:02d}.tar', chosen)
    found = run(worker, tmp_path / 'shard-{00..01}.tar', tmp_path / 'tars')
    masks = written(tmp_path / 'tars')
    assert found['images'] == 5 and found['parts_in_all'] == 2
    assert all(np.mean(_labels(data) == _labels(expected[name])) > 0.999 for name, data in masks.items())

    pyarrow = pytest.importorskip('pyarrow')
    import pyarrow.parquet  # noqa: F811

    paths = sorted(images.rglob('*.*g'))
    columns = dict(key=[p.stem for p in paths], image=[p.read_bytes() for p in paths])
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / 'a.parquet', row_group_size=3)
    run(worker, tmp_path / 'a.parquet', tmp_path / 'rows', part_size=2)
    assert written(tmp_path / 'rows') == expected
    own = dict(path=[str(p) for p in paths])
    pyarrow.parquet.write_table(pyarrow.table(own), tmp_path / 'b.parquet')
    found = run(worker, tmp_path / 'b.parquet', tmp_path / 'paths', 'parquet', part_size=2)
    rows = pyarrow.parquet.read_table(sorted((tmp_path / 'paths').glob('*.parquet')))
    assert dict(zip(rows['key'].to_pylist(), rows['data'].to_pylist(), strict=True)) == {
        f'{i:08d}': expected[f'{p.stem}.png'] for i, p in enumerate(paths) if p.stem != 'bad'
    }
    with pytest.raises(ConfigError, match='no column jpeg, found path. Give --column'):
        run(worker, tmp_path / 'b.parquet', tmp_path / 'none', column='jpeg')


def _labels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_shards_are_read_through_fsspec(images, tmp_path):
    fsspec = pytest.importorskip('fsspec')
    with fsspec.open('memory://in/a-0.tar', 'wb') as file:
        file.write(shard_of(images, tmp_path / 'a.tar').read_bytes())
    (part,) = sources.parts('memory://in/*.tar', 10, tmp_path)
    assert part.name == 'a-0' and [item.key for item in part.read()] == ['a', 'b', 'bad', 'c', 'd', 'e']


@pytest.mark.parametrize('format', ['png', 'tar'])
def test_a_stopped_run_goes_on_and_shares_write_what_one_run_does(worker, images, once, tmp_path, format, monkeypatch):
    whole = once[0]
    if format == 'tar':
        whole = tmp_path / 'whole'
        run(worker, images, whole, 'tar', part_size=2, with_images=True)
    done, stopped, compute = [], 0, worker.compute

    def stopping(batch):
        done.append(batch.keys)
        if len(done) in (2, 4):  # the second part of the first share, and the first of the second
            raise KeyboardInterrupt
        return compute(batch)

    monkeypatch.setattr(worker, 'compute', stopping)
    out, options = tmp_path / 'out', dict(part_size=2, with_images=format == 'tar')
    for share in (0, 0, 1, 1):
        try:
            found = run(worker, images, out, format, shard=(share, 2), **options)
        except KeyboardInterrupt:
            stopped += 1
    assert stopped == 2 and found['parts'] == 4 and len(done) == 6 and not list(out.rglob('*.partial*'))
    assert content(out) == content(whole)
    assert run(worker, images, out, format, **options) == found and len(done) == 6, 'a finished part was done again'


def test_a_share_that_is_worked_on_is_not_taken(worker, images, tmp_path):
    (tmp_path / 'out' / NOTES).mkdir(parents=True)
    with _share(tmp_path / 'out', 1, 4):
        with pytest.raises(ConfigError, match=rf'Share 1/4 .* by process {os.getpid()} on .*, for 0.0 minutes'):
            run(worker, images, tmp_path / 'out', shard=(1, 4), part_size=2)
        assert run(worker, images, tmp_path / 'out', shard=(0, 4), part_size=2)['parts'] == 1
    assert not (tmp_path / 'out' / INDEX).exists()
    found = run(worker, images, tmp_path / 'out', shard=(1, 4), part_size=2)
    assert (found['parts'], found['parts_in_all']) == (1, 4)


def test_results_of_other_runs_and_files_of_others_are_left_alone(once, worker, images, tmp_path):
    shutil.copytree(once[0], tmp_path / 'out')
    with pytest.raises(DataError, match=r'another run: format=\'png\' \(now \'npy\'\)'):
        run(worker, images, tmp_path / 'out', 'npy', part_size=2)
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'a.png').write_bytes(b'mine')
    with pytest.raises(DataError, match='no results of this program, as a.png'):
        run(worker, images, tmp_path / 'mine')
    with pytest.raises(DataError, match='another folder for them'):
        list(sources.parts(images, 5, images))


def test_a_shard_that_is_cut_short_and_a_key_that_comes_twice_are_noted(worker, images, tmp_path):
    whole = shard_of(images, tmp_path / 'a.tar').read_bytes()
    first = whole.index(b'c.png') // 512 * 512  # the header of the third image
    (tmp_path / 'a.tar').write_bytes(whole[: first + 700])
    found = run(worker, tmp_path / 'a.tar', tmp_path / 'cut')
    assert found['images'] == 2 and 'a.tar is no whole tar' in found['bad_files']['a']
    (tmp_path / 'list.txt').write_text(f'{images}/a.png\n{images}/a.png\n')
    found = run(worker, tmp_path / 'list.txt', tmp_path / 'twice')
    assert found['images'] == 1 and 'same key' in next(iter(found['bad_files'].values()))


def test_features_are_unit_vectors_of_the_tower_in_every_format(images, tmp_path):
    worker = Worker(task='features', batch_size=2)
    found = run(worker, images, tmp_path / 'npy', part_size=4)
    assert found['images'] == 6
    dense = np.load(tmp_path / 'npy' / 'more' / 'f.npy', mmap_mode='r')
    assert isinstance(dense, np.memmap) and dense.dtype == np.float16 and dense.ndim == 3
    one = SegInferencer(classes=CLASSES, show_progress=False)
    inputs = one.model.data_preprocessor(one.preprocess([np.asarray(Image.open(images / 'more' / 'f.png'))[..., ::-1]]))
    value = one.model.extract_feat(inputs['inputs']).value[0].permute(1, 2, 0)
    np.testing.assert_allclose(dense, (value / value.norm(dim=-1, keepdim=True)).numpy(), atol=2e-3)

    run(worker, images, tmp_path / 'safe', 'safetensors', part_size=4)
    with safe_open(tmp_path / 'safe' / 'part-000001.safetensors', 'numpy') as file:
        assert (file.get_tensor('more/f') == dense).all()
    run(worker, images, tmp_path / 'tar', 'tar', part_size=4)
    with tarfile.open(tmp_path / 'tar' / 'part-000001.tar') as tar:
        assert (np.load(io.BytesIO(tar.extractfile('more/f.npy').read())) == dense).all()

    whole = Worker(task='features', kind='global')
    whole_found = whole(dict(key=['f'], image=[str(images / 'more' / 'f.png')]))
    vector = np.load(io.BytesIO(whole_found['data'][0]))
    classifier = ClassInferencer(classes=CLASSES, show_progress=False)
    logits = classifier.logits([np.asarray(Image.open(images / 'more' / 'f.png'))[..., ::-1]])[0]
    text = classifier.model.text_side.classifier_weights()
    cosines = vector.astype(np.float32) @ text.detach().numpy().T
    scale = (logits.max() - logits.min()).item() / (cosines.max() - cosines.min())
    np.testing.assert_allclose(cosines - cosines.mean(), (logits - logits.mean()).numpy() / scale, atol=2e-3)


def test_a_share_is_written_or_that_of_the_launcher():
    assert share_of('3/8', {'RANK': '1', 'WORLD_SIZE': '2'}) == (3, 8)
    assert share_of(None, {'RANK': '1', 'WORLD_SIZE': '2'}) == (1, 2)
    array = dict(
        SLURM_ARRAY_TASK_ID='7', SLURM_ARRAY_TASK_MIN='1', SLURM_ARRAY_TASK_STEP='2', SLURM_ARRAY_TASK_COUNT='5'
    )
    assert share_of(None, array) == (3, 5)
    assert share_of(None, array | dict(SLURM_PROCID='1', SLURM_NTASKS='4')) == (13, 20)
    assert share_of(None, dict(SLURM_PROCID='0', SLURM_NTASKS='1')) == share_of(None, {}) == (0, 1)
    for text in ('4/4', 'a/2', '1', '-1/2'):
        with pytest.raises(ConfigError, match='Expected a share'):
            share_of(text, {})


def test_the_program_says_what_is_wrong_before_a_model_is_built(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('vlm_dense.cli.arguments.setup', lambda *_: pytest.fail('the libraries were imported'))
    for words, said in (
        (['none', 'out', '--classes', 'a'], 'none does not exist'),
        (['docs', 'out'], 'Give --classes'),
        (['docs', 'out', '--classes', 'a', '--shard', '4/4'], 'Expected a share as 0/4'),
        (['docs', 'out', '--classes', 'a', '--with-images'], '--format tar'),
        (['docs', 'out', '--classes', 'a', '--thresh', '1'], '--thresh is a probability'),
    ):
        with pytest.raises(SystemExit) as left:
            program.main(words)
        assert left.value.code == 2 and said in capsys.readouterr().err
