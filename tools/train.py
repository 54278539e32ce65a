"""``python tools/train.py``: the program is vlm_dense/cli/train.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('train')
