"""Processes that start at once."""

from vlm_dense.engine.forked import forked_context

CODE = """
import sys, pathlib
seen = {{'vlm_dense.methods', 'vlm_dense.comparison.dense', 'vlm_dense.engine.runner.launch'}} & set(sys.modules)
pathlib.Path({path!r}).write_text(str(len(seen)))
"""


def test_what_is_forked_has_everything_imported(tmp_path):
    path = tmp_path / 'seen'
    process = forked_context('vlm_dense.comparison.preload').Process(target=exec, args=(CODE.format(path=str(path)),))
    process.start()
    process.join()
    assert process.exitcode == 0 and path.read_text() == '3'
