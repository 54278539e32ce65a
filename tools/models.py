"""``python tools/models.py``: the program is vlm_dense/cli/models.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('models')
