"""``python tools/test.py``: the program is vlm_dense/cli/test.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('test')
