"""What a sweep found, by outcome."""

from __future__ import annotations

import collections
import re

TOLERANCE = 1e-3  # relative; a step through a network of a hundred layers enlarges differences of rounding


def difference(ours: dict, theirs: dict) -> float:
    """The largest relative difference between figures; infinite if their numbers differ."""
    worst = 0.0
    for name in ours.keys() | theirs.keys():
        one, other = ours.get(name, []), theirs.get(name, [])
        if len(one) != len(other):
            return float('inf')
        for a, b in zip(one, other, strict=True):
            if a != b and not (a != a and b != b):  # NaN in both is no difference
                worst = max(
                    worst, abs(a - b) / max(abs(a), abs(b), 1e-6) if abs(a - b) < float('inf') else float('inf')
                )
    return worst


def reason(result: dict) -> str:
    """The last line of what failed first, without paths and numbers."""
    step, trace = result['failed'][0]
    lines = trace.strip().splitlines()
    errors = [line for line in lines if re.match(r'\w[\w.]*(Error|Exception|Stopped|NotFound)?\b.*:', line)]
    text = re.sub(r'/\S+/|0x\w+', '', (errors or lines)[-1])
    return f'{step}: {text[:140]}'


def outcomes(done: dict, names: list[str], compared: bool) -> dict[str, dict[str, str]]:
    """Configs by outcome; of each a note."""
    table = collections.defaultdict(dict)
    for name in names:
        ours, theirs = done[name, 'stand-in'], done.get((name, 'compiled'))
        if not compared:
            kind, note = ('fails', reason(ours)) if ours['failed'] else ('runs', '')
        elif theirs is None:
            kind, note = 'not compared yet', ''
        elif len(ours['failed']) > len(theirs['failed']):
            kind, note = 'compiled only', reason(ours)
        elif len(ours['failed']) < len(theirs['failed']):
            kind, note = 'here only', reason(theirs)
        elif not ours['figures'] and not theirs['figures']:
            kind, note = 'neither', reason(ours)
        else:
            worst = difference(ours['figures'], theirs['figures'])
            kind, note = 'differs', f'{worst:.1e}'
            if worst <= TOLERANCE:
                kind, note = ('one step', reason(ours)) if ours['failed'] else ('same', note)
        table[kind][name] = note
    return table


def report(done: dict, names: list[str], compared: bool) -> None:
    """Print the table, and below it the notes of all that is not well."""
    table = outcomes(done, names, compared)
    print('| Outcome | Configs | Different models |\n|---|---|---|')
    for kind, configs in sorted(table.items(), key=lambda item: -len(item[1])):
        models = {done[name, 'stand-in']['model'] for name in configs}
        print(f'| {kind} | {len(configs)} | {len(models)} |')
    worst = max((float(note) for note in table['same'].values()), default=0)
    if table['same']:
        print(f'\nLargest relative difference of those that are the same: {worst:.1e}')
    for kind in ('differs', 'compiled only', 'here only', 'fails', 'one step', 'neither'):
        by_note = collections.defaultdict(list)
        for name, note in table[kind].items():
            by_note[note].append(name)
        if by_note:
            print(f'\n{kind}:')
        for note, configs in sorted(by_note.items(), key=lambda item: -len(item[1])):
            more = f' and {len(configs) - 2} more' if len(configs) > 2 else ''
            print(f'- {len(configs)}: {note} ({", ".join(configs[:2])}{more})')
