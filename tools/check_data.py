"""``python tools/check_data.py``: the program is vlm_dense/cli/check_data.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('check-data')
