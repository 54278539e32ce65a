"""``python tools/print_config.py``: the program is vlm_dense/cli/print_config.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('print-config')
