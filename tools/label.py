"""``python tools/label.py``: the program is vlm_dense/cli/label.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('label')
