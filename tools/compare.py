"""``python tools/compare.py``: the program is vlm_dense/cli/compare.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('compare')
