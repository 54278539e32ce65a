"""``python tools/model_info.py``: the program is vlm_dense/cli/model_info.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('info')
