"""``label`` and ``features`` over many images: speed against the bare model, and memory as their number grows.

    python tools/benchmarks/label.py                                   # the bundled tiny tower
    python tools/benchmarks/label.py --arch ViT-B-16 --images 16       # random weights
    python tools/benchmarks/label.py --memory 20000 --task features
    python tools/benchmarks/label.py --kill 400                        # stops: four shares, each killed once

Speed: images of 640 x 480 px (JPEG) from files to files, against the same model on batches that are decoded and resized
already; both several times in turn, the median of each. The ratio of seconds of a processor, of which other programs
take nothing, is what is left where nothing waits. Memory: the greatest so far, of the whole process, while tiny
images (32 x 32 px) go by. Stops: ``vlm-dense label --shard i/4`` in four processes beside each other, each of which is
killed (signal 9) at a random moment of its work and started again, against one run that nothing stops: every byte, of
files and of shards.
"""

from __future__ import annotations

import argparse
import itertools
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

import vlm_dense

vlm_dense.setup()  # before others import mmseg
import torch

from vlm_dense.inference.bulk.run import NOTES, run
from vlm_dense.inference.bulk.worker import Worker
from vlm_dense.inference.maskclip_models import maskclip_config

CLASSES = ['empty background', 'circle', 'square', 'triangle', 'star']


def draw(folder: Path, count: int, size: tuple[int, int], suffix: str) -> None:
    """Write crops of a drawn figure, (height, width)."""
    folder.mkdir()
    figure = Image.open(Path(__file__).parents[2] / 'docs' / 'images' / 'shapes.png').convert('RGB')
    height, width = size
    data = None
    for i in range(count):
        if data is None or i % 16 == 0:
            x, y = 13 * i % (figure.width - width), 7 * i % (figure.height - height)
            crop = figure.crop((x, y, x + width, y + height))
            crop.save(folder / f'{i:07d}{suffix}')
            data = (folder / f'{i:07d}{suffix}').read_bytes()
        else:
            (folder / f'{i:07d}{suffix}').write_bytes(data)


def worker(arch: str | None = None, device: torch.device | None = None) -> Worker:
    """Labels by MaskCLIP, with random weights, or on the bundled tiny tower."""
    model = maskclip_config(arch, None) if arch else None
    return Worker(model, classes=CLASSES, device=None if device is None else str(device))


def job(worker: Worker, count: int, whole: bool) -> Callable[[], object]:
    """Work on images of 640 x 480 px: by the model alone, or from files to files; for gpu.py."""
    folder = tempfile.TemporaryDirectory()
    images, number = Path(folder.name, 'images'), itertools.count()
    draw(images, count, (480, 640), '.jpg')
    paths = sorted(map(str, images.iterdir()))
    if whole:
        return lambda: run(worker, images, Path(folder.name, f'out_{next(number)}'))
    ready = [worker.prepare(dict(key=paths[i : i + 32], image=paths[i : i + 32])) for i in range(0, count, 32)]
    return lambda: [worker.compute(batch) for batch in ready]


def speed(worker: Worker, count: int, repeats: int) -> None:
    """Print images a second of the model alone and of the whole."""
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, 'images')
        draw(images, count, (480, 640), '.jpg')
        paths = sorted(map(str, images.iterdir()))
        ready = [worker.prepare(dict(key=paths[i : i + 32], image=paths[i : i + 32])) for i in range(0, count, 32)]
        found: list[list[tuple[float, float]]] = [[], []]
        for repeat in range(repeats):
            for times, work in (
                (found[0], lambda: [worker.compute(batch) for batch in ready]),
                (found[1], lambda: run(worker, images, Path(folder, f'out_{repeat}'))),  # noqa: B023
            ):
                start = time.perf_counter(), time.process_time()
                work()
                times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        (model, own), (every, all_) = (
            [statistics.median(each) for each in zip(*times, strict=True)] for times in found
        )
        speeds = f'the model alone {count / model:.2f}/s, from files to files {count / every:.2f}/s'
        print(f'{count} images: {speeds}: {model / every:.2f}')
        print(f'seconds of processor an image: {own / count:.3f} and {all_ / count:.3f}: {own / all_:.2f}')


def memory(worker: Worker, count: int) -> None:
    """Print the peak of memory as tiny images go by."""
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, 'images')
        draw(images, count, (32, 32), '.png')
        seen, peaks = 0, []

        def told(line: str) -> None:
            nonlocal seen
            seen += int(line.split()[1])
            peaks.append((seen, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
            if seen % max(count // 10, 1000) == 0 or seen == 1000:
                print(f'{seen} images: {peaks[-1][1]:.0f} MB', flush=True)

        run(worker, images, Path(folder, 'out'), 'tar', told=told)
        first, last = peaks[0][1], peaks[-1][1]
        print(f'{peaks[0][0]} images {first:.0f} MB, {seen} images {last:.0f} MB: {last / first - 1:+.1%}')


def kills(count: int, seed: int, formats: Sequence[str] = ('png', 'tar')) -> None:
    """Kill each of four shares once, start it again, and compare with one run; print what was killed where.

    Raises:
        SystemExit: a byte differs, or a process ended before its moment came.
    """
    generator, wrong = random.Random(seed), []
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, 'images')
        draw(images, count, (120, 160), '.png')
        for kind in formats:
            once, out = Path(folder, f'once_{kind}'), Path(folder, f'out_{kind}')
            start = time.perf_counter()
            _label(images, once, kind).wait()
            length = (time.perf_counter() - start) / 2  # the other half, at least, is the start
            shares = [_label(images, out, kind, f'{i}/4') for i in range(4)]
            moments: dict[int, float] = {}
            while len(moments) < 4 or any(each is not None for each in moments.values()):
                now = time.perf_counter()
                for i, process in enumerate(shares):
                    if i not in moments and _begun(out, i):
                        moments[i] = now + generator.uniform(0, length)
                    if process.poll() is not None and moments.get(i, now) is not None:
                        sys.exit(f'Share {i} ended before it was killed: take more images than {count}.')
                    if moments.get(i) is not None and now >= moments[i]:
                        process.kill()
                        process.wait()
                        moments[i] = None
                        done = len([each for each in _parts(out) if int(each.stem) % 4 == i])
                        print(f'{kind}: share {i} killed, {done} of its parts done', flush=True)
                time.sleep(0.01)
            codes = [process.wait() for process in [_label(images, out, kind, f'{i}/4') for i in range(4)]]
            expected, found = _content(once), _content(out)
            names = sorted(expected.keys() | found.keys())
            unlike = [name for name in names if expected.get(name) != found.get(name)]
            print(f'{kind}: {len(expected)} files, {len(unlike)} differ {unlike[:3]}; exits {codes}', flush=True)
            wrong += unlike + [code for code in codes if code]
    if wrong:
        sys.exit(1)


def _label(images: Path, out: Path, kind: str, shard: str = '0/1') -> subprocess.Popen:
    program = [sys.executable, str(Path(__file__).parents[1] / 'label.py'), str(images), str(out), '-q']
    options = ['--classes', *CLASSES, '--format', kind, '--shard', shard, '--part-size', '10']
    return subprocess.Popen([*program, *options], stdout=subprocess.DEVNULL)


def _parts(out: Path) -> list[Path]:
    return [each for each in (out / NOTES).glob('*.json') if each.stem.isdigit()]


def _begun(out: Path, share: int) -> bool:
    return (out / NOTES / f'share-{share}-of-4.json').is_file()


def _content(folder: Path) -> dict[str, bytes]:
    """All files but those that tell who works."""
    files = [path for path in folder.rglob('*') if path.is_file() and path.suffix != '.lock']
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if not p.name.startswith('share-')}


def main(argv: list[str] | None = None) -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', help='with random weights (default: the bundled tiny tower)')
    parser.add_argument('--task', choices=('label', 'features'), default='label')
    parser.add_argument('--images', type=int, default=64, help='for the speed (%(default)s)')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--memory', type=int, metavar='N', help='measure memory over N tiny images, and no speed')
    parser.add_argument('--kill', type=int, metavar='N', help='kill processes that label N images, and no speed')
    parser.add_argument('--seed', type=int, default=0, help='of the moments of --kill')
    args = parser.parse_args(argv)
    if args.kill:
        return kills(args.kill, args.seed)
    model = maskclip_config(args.arch, None) if args.arch else None
    options = dict(classes=CLASSES) if args.task == 'label' else dict(kind='global')
    worker = Worker(model, task=args.task, **options)
    if args.memory:
        memory(worker, args.memory)
    else:
        speed(worker, args.images, args.repeats)


if __name__ == '__main__':
    main()
