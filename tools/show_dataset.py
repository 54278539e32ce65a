"""``python tools/show_dataset.py``: the program is vlm_dense/cli/show_dataset.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('show-dataset')
