"""``python tools/pseudo_label.py``: the program is vlm_dense/cli/pseudo_label.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('pseudo-label')
