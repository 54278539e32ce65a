"""``python tools/verify.py``: the program is vlm_dense/cli/verify.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('verify')
