"""``python tools/merge_lora.py``: the program is vlm_dense/cli/merge_lora.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('merge-lora')
