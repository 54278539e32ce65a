"""``python -m vlm_dense`` is ``vlm-dense``."""

from vlm_dense.cli import main

if __name__ == '__main__':
    main()
