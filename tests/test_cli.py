"""The command ``vlm-dense``: what it lists, what it runs, and that it answers before torch is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import vlm_dense
from vlm_dense import cli
from vlm_dense.cli import PROGRAMS, arguments

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
WITHOUT_TORCH = 'import sys; sys.modules["torch"] = sys.modules["mmengine"] = None; '
"""Begin of a program in which importing torch or mmengine is an error."""


def run(code: str) -> tuple[int, str]:
    """Status and output of a program without torch."""
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_TORCH + code], capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT
    )
    return done.returncode, done.stdout + done.stderr


def test_the_help_tells_each_program(capsys):
    cli.main(['--help'])
    lines = capsys.readouterr().out.splitlines()
    for name in PROGRAMS:
        told = [line for line in lines if line.split()[:1] == [name]]
        assert len(told) == 1 and len(told[0].split()) > 2, name
    cli.main([])
    assert capsys.readouterr().out.splitlines() == lines
    cli.main(['--version'])
    assert vlm_dense.__version__ in capsys.readouterr().out


def test_every_program_tells_its_arguments_without_torch():
    status, told = run("""
import contextlib, io
from vlm_dense import cli
for name in cli.PROGRAMS:
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            cli.main([name, '--help'])
    except SystemExit as left:
        print(name, left.code, f'usage: vlm-dense {name} ' in out.getvalue())
print(len(cli.PROGRAMS))
""")
    *lines, count = told.splitlines()
    assert status == 0 and len(lines) == int(count), told
    assert all(line.split()[1:] in (['0', 'True'], ['None', 'True']) for line in lines), told


MISTAKES = [
    (['trian'], "'trian' is not in the programs of vlm-dense. Did you mean 'train'"),
    (['train', 'denseclip_shpaes'], "Did you mean 'denseclip_shapes'"),
    (['train', 'configs/denseclip_shpaes.py'], 'denseclip_shapes.py'),
    (['train', 'configs/coop_shapes.py', '--wrok-dir', 'x'], 'unrecognized arguments: --wrok-dir'),
    (['test', 'coop_shapes', '--cfg-options', 'a'], "expected KEY=VALUE, found 'a'"),
    (['info', 'nowhere.py'], 'Config nowhere.py does not exist'),
    (['segment', 'a.png', '--model', 'maskclip_vitb16'], "Did you mean 'maskclip_vit-b16'"),
    (['pseudo-label', 'naclip_tiny-vitt', 'a', 'b'], "Did you mean 'naclip_tiny-vit'"),
    (['compare', '--methods', 'coopp'], "Did you mean 'coop'"),
    (['compare', '--methods', 'coop', '--protocols', 'fewshot'], "Did you mean 'few-shot'"),
    (['compare-dense', '--methods', 'naclipp'], 'naclip_tiny-vit_shapes.py'),
    (['segment', 'nope.jpg', '--classes', 'sky', 'road'], 'Image nope.jpg does not exist'),
    (['segment', 'setup.py'], 'Expected names of what the image may show'),
    (['segment', 'setup.py', '--method', 'naclip'], 'Expected names of what the image may show'),
    (['segment', 'setup.py', '--method', 'naclip', '--arch', 'RN50'], 'beside --method, found one of them'),
    (['segment', 'nope*.jpg', '--classes', 'sky', 'road'], 'No file matches nope*.jpg'),
    (['segment', 'setup.py', '--pretrained', 'openai'], 'together, found --pretrained'),
    (['detect', 'nope.jpg', '--model', 'denseclip_mask-rcnn_shapes'], 'Image nope.jpg does not exist'),
    (['info', 'coop_shapes', '--shape', '0', '64'], "expected an integer of at least 1, found '0'"),
    (['models', 'densclip'], "Did you mean 'denseclip_"),
    (['models', 'naclip', '--task', 'detection'], 'has a task like'),
]


def test_mistakes_are_told_without_torch():
    status, told = run(f"""
import contextlib, io, json
from vlm_dense import cli
found = []
for words in {[words for words, _ in MISTAKES]!r}:
    err = io.StringIO()
    try:
        with contextlib.redirect_stderr(err):
            cli.main(words)
    except SystemExit as left:
        found.append((left.code, err.getvalue()))
print(json.dumps(found))
""")
    assert status == 0, told
    for (words, expected), (code, message) in zip(MISTAKES, json.loads(told), strict=True):
        assert code == 2 and expected in message, (words, message)


def test_models_are_listed_with_their_figures():
    status, told = run('from vlm_dense import cli; cli.main(["models", "denseclip_*ade20k", "--task", "segm"])')
    assert status == 0
    row = next(line for line in told.splitlines() if line.startswith('denseclip_rn101_ade20k'))
    assert 'Semantic Segmentation' in row and 'ADE20K' in row and 'mIoU 45.1 (ADE20K)' in row
    assert 'denseclip_shapes' not in told


def test_the_table_of_models_is_that_of_the_metafiles(capsys):
    cli.program('models').main([])
    lines = capsys.readouterr().out.splitlines()
    places = [lines[0].index(name) for name in ('trained on', 'published', 'own')]
    rows = {line.split()[0]: line for line in lines[1:] if line}
    metafiles = sorted((ROOT / 'configs').glob('*/metafile.yml'))
    models = [model for path in metafiles for model in yaml.safe_load(path.read_text('utf-8'))['Models']]
    assert len(models) > 100 and sum(bool(model.get('Results')) for model in models) > 20
    for model in models:
        row = rows[model['Name']]
        shown = dict(zip((True, False), (row[places[1] : places[2]].strip(), row[places[2] :].strip()), strict=True))
        for result in model.get('Results') or ():
            for name, value in (result.get('Metrics') or {}).items():
                figure = f'{name} {value} ({result["Dataset"]})'
                assert figure in shown[result['Published']] and figure not in shown[not result['Published']], row
        assert bool(shown[True] + shown[False]) == any(one.get('Metrics') for one in model.get('Results') or ()), row


def test_without_the_libraries_of_mm_a_program_says_how_to_get_them():
    status, told = run('from vlm_dense import cli; cli.main(["train", "coop_shapes"])')
    assert status == 2 and 'mmengine cannot be imported' in told and "'.[mm]'" in told and 'Traceback' not in told
    for module in ('vlm_dense.inference', 'vlm_dense.registry'):
        _, told = run(f'import {module}')
        assert 'MissingLibraryError' in told.splitlines()[-1] and "'.[mm]'" in told


def test_a_program_leaves_with_its_status(tmp_path):
    answers = tmp_path / 'answers.jsonl'
    answers.write_text('{"class": "circle", "answer": "It is round."}\n')
    words = ['circle', 'star', '--answers', str(answers), '--out', str(tmp_path / 'sentences.json')]
    with pytest.raises(SystemExit) as left:
        cli.main(['describe-classes', *words])
    assert left.value.code == 1  # the star has no answer
    with pytest.raises(SystemExit) as left:
        cli.main(['models', 'denseclip', '--names'])
    assert left.value.code == 0


def test_a_reader_that_leaves_ends_a_program_without_a_traceback():
    code = WITHOUT_TORCH + 'from vlm_dense import cli; cli.main(["models"])'
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process = subprocess.Popen([sys.executable, '-c', code], **pipes, text=True, env=ENVIRONMENT)
    process.stdout.close()
    assert process.stderr.read() == '' and process.wait() == 141


def test_files_of_tools_are_the_programs_and_name_themselves():
    files = {path.stem for path in (ROOT / 'tools').glob('*.py')}
    assert files == set(PROGRAMS.values())
    code = (
        WITHOUT_TORCH + 'import runpy; sys.argv[0] = path = sys.argv.pop(1); runpy.run_path(path, run_name="__main__")'
    )
    for name, file in PROGRAMS.items():
        command = [sys.executable, '-c', code, f'tools/{file}.py', '--help']
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT)
        assert done.returncode == 0 and done.stdout.startswith(f'usage: python tools/{file}.py '), done.stderr
        assert 'vlm-dense' not in done.stdout, name


def test_a_command_is_told_as_it_was_typed(monkeypatch):
    monkeypatch.setattr('sys.argv', ['tools/compare.py', '--shots', '4', 'a b'])
    assert arguments.as_typed('compare') == "python tools/compare.py --shots 4 'a b'"
    monkeypatch.setattr('sys.argv', ['/somewhere/bin/vlm-dense', '--shots', '4'])
    assert arguments.as_typed('compare') == 'vlm-dense compare --shots 4'
    assert arguments.as_typed('compare', ['--seeds', '1']) == 'vlm-dense compare --seeds 1'


def test_figures_go_to_standard_output_alone_or_to_a_file(tmp_path, capsys):
    for place in ('-', str(tmp_path / 'new' / 'figures.json')):
        with pytest.raises(SystemExit):
            cli.main(['models', 'denseclip_rn101_ade20k', '--json', place])
    told = capsys.readouterr()
    (model,) = json.loads(told.out.partition('\nmodel ')[0])  # the second call prints its table
    assert (
        model['results'][0]['Metrics'] == {'mIoU': 45.1}
        and 'mIoU 45.1 (ADE20K)' in told.err
        and '\n1 model. ' in told.err
    )
    assert json.loads((tmp_path / 'new' / 'figures.json').read_text()) == [model]


def test_figures_are_json_whatever_numbers_they_are(tmp_path):
    figures = dict(a=np.float64(0.5), b=[torch.tensor(3), float('nan')], c=(np.int64(2), None, True), d=tmp_path)
    with arguments.figures_to(str(tmp_path / 'a.json')) as write:
        write(figures)
    strict = dict(parse_constant=lambda name: pytest.fail(f'{name} is no JSON'))
    found = json.loads((tmp_path / 'a.json').read_text(), **strict)
    assert found == dict(a=0.5, b=[3, None], c=[2, None, True], d=str(tmp_path))


def test_no_figures_are_written_after_an_error(tmp_path):
    with pytest.raises(ValueError), arguments.figures_to(str(tmp_path / 'a.json')) as write:
        write(1)
        raise ValueError
    assert not (tmp_path / 'a.json').exists()


COMPLETE = """
source "$1"
complete_it() {
  COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMP_LINE="$*"; COMPREPLY=()
  _shtab_vlm_dense; echo "${COMPREPLY[@]}"
}
vlm-dense() { echo denseclip_shapes coop_shapes; }
complete_it vlm-dense com
complete_it vlm-dense train --resu
complete_it vlm-dense train denseclip
complete_it vlm-dense export --format ""
"""


def test_the_shell_completes_programs_options_and_names_of_models(tmp_path, capsys):
    pytest.importorskip('shtab')
    cli.main(['--print-completion', 'bash'])
    (tmp_path / 'completion.sh').write_text(capsys.readouterr().out)
    command = ['bash', '-c', COMPLETE, 'bash', str(tmp_path / 'completion.sh')]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ['compare compare-dense', '--resume', 'denseclip_shapes', 'onnx pt2'], (
        done.stderr
    )
    for shell in ('zsh', 'tcsh'):
        cli.main(['--print-completion', shell])
        assert 'pseudo-label' in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        cli.main(['--print-completion', 'bsh'])
    assert left.value.code == 2 and "Did you mean 'bash'" in capsys.readouterr().err


def test_completion_without_shtab_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'shtab', None)
    with pytest.raises(SystemExit) as left:
        cli.main(['--print-completion', 'bash'])
    assert left.value.code == 2 and "'.[completion]'" in capsys.readouterr().err
