"""``python tools/diff.py``: the program is vlm_dense/cli/diff.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('diff')
