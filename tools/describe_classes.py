"""``python tools/describe_classes.py``: the program is vlm_dense/cli/describe_classes.py."""

from vlm_dense.cli import run

if __name__ == '__main__':
    run('describe-classes')
