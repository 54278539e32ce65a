"""``python tools/export.py``: the program is vlm_dense/cli/export.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('export')
