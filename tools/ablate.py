"""``python tools/ablate.py``: the program is vlm_dense/cli/ablate.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('ablate')
