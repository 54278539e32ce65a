"""``python tools/features.py``: the program is vlm_dense/cli/features.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('features')
