"""Methods compared under one protocol: see `tools/compare.py`."""
