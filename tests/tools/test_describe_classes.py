"""tools/describe_classes.py: questions out, answers in, a file that the prompts read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from methods.small import build_prompt, text_tower

from vlm_dense.cli import describe_classes

NAMES = ['owl', 'traffic light']


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def answered(path: Path, answers: dict) -> Path:
    path.write_text(''.join(json.dumps({'class': name, 'answer': text}) + '\n' for name, text in answers.items()))
    return path


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as error:
        describe_classes.main([str(argument) for argument in arguments])
    assert error.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(('layout', 'count'), [('cupl', 5), ('cupl-base', 3), ('vcd', 1)])
def test_each_class_is_asked_about(tmp_path, layout, count):
    out = tmp_path / 'questions.jsonl'
    assert describe_classes.main([*NAMES, '--layout', layout, '--questions', str(out)]) == 0
    found = lines(out)
    assert [line['class'] for line in found] == ['owl'] * count + ['traffic light'] * count
    assert all(name in line['question'] for line in found for name in [describe_classes.with_article(line['class'])])
    assert len({line['question'] for line in found}) == 2 * count
    assert {line['temperature'] for line in found} == {0.0 if layout == 'vcd' else 0.99}
    assert 'an owl' in found[0]['question'] and found[-1]['question'].endswith('-') == (layout == 'vcd')


def test_answers_become_sentences_that_cupl_reads(tmp_path):
    owl = ['An owl has large eyes. It hunts at night', '\n\n1. A brown  bird.\n2. An owl has large eyes.']
    answers = answered(
        tmp_path / 'a.jsonl', {'traffic light': 'Three lamps:\n- red, amber and green lamps', 'owl': owl}
    )
    out = tmp_path / 'sentences.json'
    assert describe_classes.main([*NAMES, '--answers', str(answers), '--out', str(out)]) == 0
    assert json.loads(out.read_text()) == {
        'owl': ['An owl has large eyes.', 'It hunts at night.', 'A brown bird.'],
        'traffic light': ['red, amber and green lamps.'],
    }
    assert len(build_prompt(text_tower(), 'CuPLPrompt', NAMES, sentences=str(out)).token_ids) == 4


def test_answers_become_descriptors_that_vcd_reads(tmp_path):
    answers = answered(
        tmp_path / 'a.jsonl',
        {
            'owl': ' Large round eyes\n- a hooked beak.\nThat is all.',
            'traffic light': 'Features:\n* three lamps\n\n- a pole',
        },
    )
    out = tmp_path / 'descriptors.json'
    assert describe_classes.main([*NAMES, '--layout', 'vcd', '--answers', str(answers), '--out', str(out)]) == 0
    assert json.loads(out.read_text()) == {
        'owl': ['large round eyes', 'a hooked beak'],
        'traffic light': ['three lamps', 'a pole'],
    }
    prompt = build_prompt(text_tower(), 'VCDPrompt', NAMES, descriptors=str(out))
    assert prompt.sentences[0][1] == 'owl, which is a hooked beak'


def test_classes_without_answer_are_named_and_asked_about_again(tmp_path, capsys):
    answers = answered(tmp_path / 'a.jsonl', {'owl': 'A bird.', 'traffic light': '  '})
    out, again = tmp_path / 'sentences.json', tmp_path / 'again.jsonl'
    arguments = [*NAMES, 'cat', '--answers', str(answers), '--out', str(out), '--questions', str(again)]
    assert describe_classes.main(arguments) == 1
    assert '2 classes have no answer: traffic light, cat' in capsys.readouterr().err
    assert list(json.loads(out.read_text())) == ['owl']
    assert {line['class'] for line in lines(again)} == {'traffic light', 'cat'}


def test_lists_of_the_package_and_files_are_read(tmp_path):
    out = tmp_path / 'questions.jsonl'
    describe_classes.main(['camvid11', '--layout', 'vcd', '--questions', str(out)])
    assert {'sky', 'building', 'house', 'bicyclist', 'cyclist'} <= {line['class'] for line in lines(out)}
    (tmp_path / 'names.txt').write_text('# mine\nowl\ntraffic light\n')
    describe_classes.main([str(tmp_path / 'names.txt'), '--layout', 'vcd', '--questions', str(out)])
    assert [line['class'] for line in lines(out)] == NAMES


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{"class": "owl", "answer": "A bird."}\nnonsense', 'line 2: expected an object with "class" and "answer"'),
        ('["owl", "A bird."]', 'line 1: expected an object'),
        ('{"answer": "A bird."}', 'line 1: expected an object'),
        ('{"class": "owl", "answer": 5}', 'line 1: expected a text or a list of texts'),
        ('{"class": "owl", "answer": ["A bird.", 5]}', 'line 1: expected a text or a list of texts'),
        ('{"class": "emu", "answer": "A bird."}', "line 1: 'emu' is none of the 2 classes"),
    ],
)
def test_lines_that_are_no_answers_are_named(tmp_path, capsys, content, message):
    (tmp_path / 'a.jsonl').write_text(content)
    out = tmp_path / 'out.json'
    assert message in refused(capsys, *NAMES, '--answers', tmp_path / 'a.jsonl', '--out', out)
    assert not out.exists()


def test_what_cannot_work_is_said(tmp_path, capsys):
    assert 'Give --questions to ask' in refused(capsys, *NAMES)
    assert 'Give --questions to ask' in refused(capsys, *NAMES, '--answers', tmp_path / 'a.jsonl')
    assert 'no file of answers' in refused(capsys, *NAMES, '--answers', tmp_path / 'a.jsonl', '--out', tmp_path / 'x')
    assert "'camvid' is not in the lists of class names" in refused(capsys, 'camvid', '--questions', tmp_path / 'q')
