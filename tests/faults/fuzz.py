"""Run programs on mutated inputs, each in a process of its own, and sort what becomes of them.

    python tests/faults/fuzz.py --minutes 30 --seed 0 --folder /tmp/fuzz

A case takes a sound input (checkpoint, config, COCO file, class list, image, exported file), changes it at random, and
gives it to a program that reads it. Outcomes: ``done``, ``refused`` (status 2 and a message), ``traceback``, ``hang``
(over the time limit), ``lost`` (an input or a file of somebody else changed), ``ran`` (a mark that only code of the
input leaves), ``killed`` (by a signal). The inputs of all but the first two are kept in the folder.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

FAULTS = ('traceback', 'hang', 'lost', 'ran', 'killed')
LIMIT = 180  # seconds of a case
MEMORY = 12 << 30  # bytes of address space of a case
CODE = "__import__('os').system('touch RAN')"
WORDS = ['', '0', '-1', '1e999', 'NaN', 'null', 'None', '[]', '{}', '"x"', '[[[[', 'x' * 5000, '\0', '\ufeff', '2**99']
VALUES = [
    None,
    0,
    -1,
    2**40,
    1e308,
    float('nan'),
    '',
    'x',
    [],
    {},
    [[]],
    True,
    'a' * 1000,
    {'type': 5},
    {'type': 'Nothing'},
    CODE,
]


# --- changes ----------------------------------------------------------------------------------------------------------


def of_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes with a few of them changed, cut off, doubled or taken out."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(data) + 1), rng.randint(1, 64)
        kind = rng.randrange(4)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + length]
        else:
            data[at:at] = data[at : at + length] * rng.randint(1, 5)
    return bytes(data)


def places(node, path=()) -> Iterator[tuple]:
    """The path of everything inside dicts and lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def of_tree(node, rng: random.Random):
    """Dicts and lists with an entry replaced, taken out or doubled, in place."""
    for _ in range(rng.randint(1, 3)):
        found = list(places(node))
        if not found:
            return node
        *above, key = rng.choice(found)
        part = node
        for step in above:
            part = part[step]
        kind = rng.randrange(4)
        if kind == 0:
            del part[key]
        elif kind == 1 and isinstance(part, list):
            part.append(part[key])
        elif kind == 1 and isinstance(key, str):
            part[key[::-1]] = part.pop(key)
        else:
            part[key] = rng.choice(VALUES)
    return node


def of_text(text: str, rng: random.Random) -> str:
    """Text with words replaced, letters swapped or lines moved."""
    lines = text.splitlines(keepends=True)
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(len(lines))
        kind = rng.randrange(4)
        if kind == 0:
            lines.insert(rng.randrange(len(lines)), lines[i])
        elif kind == 1:
            del lines[i]
            lines = lines or ['\n']
        elif len(lines[i]) > 2:
            at = rng.randrange(len(lines[i]) - 2)
            new = lines[i][at + 1] + lines[i][at] if kind == 2 else rng.choice(WORDS)
            lines[i] = lines[i][:at] + new + lines[i][at + 2 :]
    return ''.join(lines)


# --- cases ------------------------------------------------------------------------------------------------------------


class Inputs:
    """Sound inputs, made once."""

    def __init__(self, folder: Path):
        from engine.toy import write_config, write_data

        from vlm_dense.cli import train
        from vlm_dense.inference import export_file

        self.folder = folder
        self.config = Path(
            write_config(folder, write_data(folder / 'data', train=4, val=2), "train_cfg['max_iters'] = 2")
        )
        train.main([str(self.config), '--work-dir', str(folder / 'work')])
        self.checkpoint = folder / 'work' / 'iter_2.pth'
        for name in ('a.pt2', 'a.onnx'):
            export_file('maskclip_tiny-vit_shapes', None, str(folder / name), ['circle', 'star'], size=(40, 48))
        self.images = sorted((folder / 'data' / 'images' / 'val').iterdir())
        (folder / 'coco' / 'images').mkdir(parents=True)
        for image in self.images:
            shutil.copy(image, folder / 'coco' / 'images')
        self.coco = dict(
            images=[dict(id=i, file_name=p.name, width=48, height=40) for i, p in enumerate(self.images)],
            categories=[dict(id=1, name='sky'), dict(id=2, name='road')],
            annotations=[
                dict(id=i, image_id=i % 2, category_id=1 + i % 2, bbox=[1, 2, 9, 9], area=81, iscrowd=0)
                for i in range(6)
            ],
        )


def image(inputs: Inputs, place: Path, rng: random.Random) -> list:
    path = place / f'a{rng.choice([".png", ".jpg", ".tif", ".webp", ""])}'
    path.write_bytes(of_bytes(inputs.images[0].read_bytes(), rng))
    return ['segment', path, '--classes', 'circle', 'star', '--out', place / 'out', '--device', 'cpu']


def names(inputs: Inputs, place: Path, rng: random.Random) -> list:
    path = place / 'names.txt'
    path.write_bytes(of_bytes(of_text('sky, heaven\nroad\n# note\ncar\n', rng).encode(), rng))
    return ['describe-classes', path, '--questions', place / 'questions.jsonl']


def answers(inputs: Inputs, place: Path, rng: random.Random) -> list:
    path = place / 'answers.jsonl'
    entry = {'class': 'owl', 'question': 'What?', 'answer': ['It has feathers.']}
    path.write_text(json.dumps(of_tree(entry, rng)) + '\n')
    return ['describe-classes', 'owl', '--answers', path, '--out', rng.choice([place / 'o.json', path])]


def config(inputs: Inputs, place: Path, rng: random.Random) -> list:
    path = place / 'toy.py'
    path.write_text(of_text(inputs.config.read_text(), rng))
    program = rng.choice(['print-config', 'train', 'train'])
    return [program, path, *(['--work-dir', place / 'work'] if program == 'train' else [])]


def option(inputs: Inputs, place: Path, rng: random.Random) -> list:
    from mmengine.config import Config

    tree = Config.fromfile(inputs.config)._cfg_dict.to_dict()
    keys = ['.'.join(map(str, p)) for p in places(tree) if all('.' not in str(step) for step in p)]
    changes = [f'{rng.choice(keys)}={rng.choice(WORDS[:10])}' for _ in range(rng.randint(1, 2))]
    return ['train', inputs.config, '--work-dir', place / 'work', '--cfg-options', *changes]


def checkpoint(inputs: Inputs, place: Path, rng: random.Random) -> list:
    import torch

    path = place / 'a.pth'
    if rng.random() < 0.4:
        path.write_bytes(of_bytes(inputs.checkpoint.read_bytes(), rng))
    else:
        tree = of_tree(torch.load(inputs.checkpoint, weights_only=False), rng)
        if rng.random() < 0.2 and isinstance(tree.get('meta'), dict):
            tree['meta']['cfg'] = CODE
        torch.save(tree, path)
    how = rng.choice([['train', inputs.config, '--resume', path], ['train', inputs.config, '--load-from', path]])
    how = rng.choice([how, ['test', inputs.config, path]])
    return [*how, '--work-dir', place / 'work', '--cfg-options', 'train_cfg.max_iters=3']


def boxes(inputs: Inputs, place: Path, rng: random.Random) -> list:
    shutil.copytree(inputs.folder / 'coco', place / 'coco')
    for split in ('train', 'val'):
        text = json.dumps(of_tree(json.loads(json.dumps(inputs.coco)), rng))
        (place / 'coco' / f'{split}.json').write_text(of_text(text, rng) if rng.random() < 0.2 else text)
    words = ['--data-root', place / 'coco', '--out', place / 'out']
    return ['check-data', 'denseclip_retinanet_own-coco', *words]


def exported(inputs: Inputs, place: Path, rng: random.Random) -> list:
    path = place / rng.choice(['a.pt2', 'a.onnx'])
    path.write_bytes(of_bytes((inputs.folder / path.name).read_bytes(), rng))
    return ['segment', inputs.images[0], '--model', path, '--out', place / 'out', '--device', 'cpu']


KINDS: dict[str, Callable[[Inputs, Path, random.Random], list]] = {
    f.__name__: f for f in (image, names, answers, config, option, checkpoint, boxes, exported)
}


# --- outcomes ---------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, str]:
    """Path -> digest of the files below a folder."""
    files = (path for path in folder.rglob('*') if path.is_file() and path.name != '.vlm_dense_written')
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def outcome(command: Sequence, place: Path, inputs: Path) -> tuple[str, str]:
    """What became of a case, and the end of what it printed."""
    before = contents(inputs) | contents(place)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    words = [sys.executable, '-m', 'vlm_dense', *map(str, command)]
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors='replace',
            timeout=LIMIT,
            preexec_fn=limited,
            env=environment,
            cwd=place,
        )
    except subprocess.TimeoutExpired:
        return 'hang', ' '.join(words)
    text = (done.stdout + done.stderr)[-3000:]
    after = contents(inputs) | contents(place)
    if any(after.get(path) != digest for path, digest in before.items()):
        return 'lost', text
    if (place / 'RAN').exists():
        return 'ran', text
    if done.returncode < 0:
        return 'killed', text
    if 'Traceback (most recent call last)' in text:
        return 'traceback', text
    return ('done' if done.returncode in (0, 1) else 'refused'), text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the number of faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=30)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--kind', nargs='+', choices=list(KINDS), default=list(KINDS))
    parser.add_argument('--folder', type=Path, required=True, help='for inputs; those of faults are kept')
    args = parser.parse_args(argv)
    import vlm_dense

    vlm_dense.setup()
    inputs = Inputs(args.folder / 'inputs')
    end, counts, number = time.monotonic() + 60 * args.minutes, collections.Counter(), 0
    while time.monotonic() < end:
        kind = args.kind[number % len(args.kind)]
        rng = random.Random(f'{args.seed} {number}')
        place = args.folder / f'{number}-{kind}'
        place.mkdir(parents=True)
        command = KINDS[kind](inputs, place, rng)
        found, text = outcome(command, place, inputs.folder)
        counts[kind, found] += 1
        if found in FAULTS:
            print(f'{place}: {found}\n  {" ".join(map(str, command))}\n  {text[-600:]}', flush=True)
        else:
            shutil.rmtree(place)
        number += 1
    for kind in args.kind:
        print(f'{kind}: ' + ', '.join(f'{n} {what}' for (k, what), n in sorted(counts.items()) if k == kind))
    faults = sum(n for (_, what), n in counts.items() if what in FAULTS)
    print(f'{number} cases, {faults} faults')
    return faults


if __name__ == '__main__':
    sys.exit(min(main(), 1))
