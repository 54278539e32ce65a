"""Cases for tools/dev/compare_ops.py: kernels of mmcv and detectors with them."""
