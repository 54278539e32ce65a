"""``python tools/segment.py``: the program is vlm_dense/cli/segment.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('segment')
