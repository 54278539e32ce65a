"""``python tools/detect.py``: the program is vlm_dense/cli/detect.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('detect')
