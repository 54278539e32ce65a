"""Models of stock configs with random weights, for tools/ops_sweep.py."""
