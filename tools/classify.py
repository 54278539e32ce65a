"""``python tools/classify.py``: the program is vlm_dense/cli/classify.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('classify')
