"""Models of stock configs with random weights, for tools/dev/ops_sweep.py."""
