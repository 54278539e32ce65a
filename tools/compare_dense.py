"""``python tools/compare_dense.py``: the program is vlm_dense/cli/compare_dense.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('compare-dense')
