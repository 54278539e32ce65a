"""Cases for tools/compare_ops.py: kernels of mmcv and detectors with them."""
