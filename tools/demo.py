"""``python tools/demo.py``: the program is vlm_dense/cli/demo.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('demo')
