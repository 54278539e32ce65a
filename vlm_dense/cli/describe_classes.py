"""Sentences about classes from any language model, for CuPL and VCD.

    vlm-dense describe-classes camvid11 --layout cupl --questions questions.jsonl
    # let a language model answer: add "answer" to each line, a text or a list of texts
    vlm-dense describe-classes camvid11 --layout cupl --answers questions.jsonl --out sentences.json

and then text_prompt=dict(type='vlm_dense.CuPLPrompt', sentences='sentences.json'), or --layout vcd and
text_prompt=dict(type='vlm_dense.VCDPrompt', descriptors='descriptors.json').

Lines of questions have "class", "question" and what the papers set the model to: "samples", "temperature", "max_tokens"
and "stop". Classes without answer are named, and the program leaves with status 1; with --questions as well, their
questions are written again.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from vlm_dense.cli import arguments
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import ConfigError, DataError


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('describe-classes', __doc__)
    parser.add_argument(
        'classes', nargs='+', metavar='CLASSES', help='a list of the package, as camvid11; a file of names; or names'
    )
    parser.add_argument('--layout', choices=('cupl', 'cupl-base', 'vcd'), default='cupl', help='what is asked for')
    parser.add_argument('--questions', metavar='FILE', help='write the questions there, as JSONL')
    parser.add_argument('--answers', metavar='FILE', help='read the answers from there, as JSONL')
    parser.add_argument('--out', metavar='FILE', help='write what the prompt reads there, as JSON')
    return parser


CUPL = (
    'What does {} look like?',
    'Describe the looks of {}.',
    'How can one recognise {}?',
    'Describe an image of {} from the web.',
    'Write a caption for an image of {}:',
)
"""The five kinds of question of CuPL on ImageNet."""

CUPL_BASE = CUPL[:2] + ('What does a photo of {} show?',)
"""Three that suit any data set."""

VCD = """Q: Which visual features help to recognise a hedgehog in a photo?
A: Visual features of a hedgehog:
- a small round animal
- brown and white spines
- a pointed snout
- small dark eyes
- short legs

Q: Which visual features help to recognise a kettle in a photo?
A: Visual features of a kettle:
- a kitchen appliance
- a rounded body of metal or plastic
- a handle on the top or side
- a spout
- a lid

Q: Which visual features help to recognise {0} in a photo?
A: Visual features of {0}:
-"""
"""Two worked examples and the question, which ends in the dash of a list."""

SETTINGS = dict(
    cupl=dict(samples=10, temperature=0.99, max_tokens=50, stop='.'),
    vcd=dict(samples=1, temperature=0.0, max_tokens=100, stop=None),
)
_MARK = re.compile(r'^\s*(?:[-*\u2022]|\d+[.)])\s+')


def with_article(name: str) -> str:
    """'owl' -> 'an owl'."""
    return f'{"an" if name[0].lower() in "aeiou" else "a"} {name}'


def questions(names: Sequence[str], layout: str) -> list[dict]:
    """One for each line of the file; all of a class follow each other."""
    wordings = {'cupl': CUPL, 'cupl-base': CUPL_BASE, 'vcd': (VCD,)}[layout]
    return [
        {'class': name, 'question': wording.format(with_article(name)), **SETTINGS[layout.partition('-')[0]]}
        for name in names
        for wording in wordings
    ]


def sentences(answer: str) -> list[str]:
    """Whole sentences of an answer for CuPL, without marks of lists; the full stop is put back."""
    lines = [' '.join(_MARK.sub('', line).split()) for line in answer.splitlines()]
    found = [text for line in lines if not line.endswith(':') for text in re.split(r'(?<=[.!?])\s+', line) if text]
    return [text if text[-1] in '.!?' else f'{text}.' for text in found]


def phrases(answer: str) -> list[str]:
    """Descriptors of an answer for VCD: the lines of its list, and the first, which follows the question's dash."""
    lines = [line for line in answer.splitlines() if line.strip()]
    listed = [line for i, line in enumerate(lines) if _MARK.match(line) or i == 0 and not line.rstrip().endswith(':')]
    found = [' '.join(_MARK.sub('', line).split()).rstrip('.').lower() for line in listed]
    return [text for text in found if text]


def read_answers(path: str, names: Sequence[str], layout: str) -> dict[str, list[str]]:
    """Class -> its texts, each once, in the order of ``names``; classes without any are left out.

    Raises:
        DataError: no such file, or a line without class and answer; names the line.
    """
    if not Path(path).is_file():
        raise DataError(f'There is no file of answers at {path}.')
    found: dict[str, dict[str, None]] = {name: {} for name in names}
    for number, line in enumerate(Path(path).read_text(encoding='utf-8').splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, answers = entry['class'], entry.get('answer') or []
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f'{path}, line {number}: expected an object with "class" and "answer", found {line[:80]!r}.'
            ) from error
        answers = [answers] if isinstance(answers, str) else answers
        if not isinstance(answers, list) or not all(isinstance(text, str) for text in answers):
            raise DataError(f'{path}, line {number}: expected a text or a list of texts as "answer".')
        if name not in found:
            raise DataError(f'{path}, line {number}: {name!r} is none of the {len(names)} classes.')
        split = phrases if layout == 'vcd' else sentences
        found[name].update(dict.fromkeys(text for answer in answers for text in split(answer)))
    return {name: list(texts) for name, texts in found.items() if texts}


def write_questions(path: str, names: Sequence[str], layout: str) -> None:
    """Write one question a line."""
    lines = [json.dumps(question, ensure_ascii=False) for question in questions(names, layout)]
    Path(path).write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')
    print(f'{path}: {len(lines)} questions on {len(names)} classes.')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; 1 if classes are without answer."""
    args = parser().parse_args(argv)
    with user_errors():
        if not args.questions and not args.answers or bool(args.answers) != bool(args.out):
            raise ConfigError('Give --questions to ask, or --answers with --out to make the file of the answers.')
        from vlm_dense.engine.outputs import claim
        from vlm_dense.vocabulary.class_names import as_class_names

        listed = as_class_names(args.classes[0] if len(args.classes) == 1 else args.classes)
        claim([path for path in (args.out, args.questions) if path], [args.answers, *args.classes])
        names = missing = [name for aliases in listed for name in aliases]
        if args.answers:
            found = read_answers(args.answers, names, args.layout)
            missing = [name for name in names if name not in found]
            Path(args.out).write_text(json.dumps(found, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
            print(f'{args.out}: {sum(map(len, found.values()))} texts on {len(found)} of {len(names)} classes.')
        if args.questions and missing:
            write_questions(args.questions, missing, args.layout)
        if args.answers and missing:
            print(f'{len(missing)} classes have no answer: {", ".join(missing)}', file=sys.stderr)
            return 1
    return 0
