"""Trained models as ONNX or .pt2 files; :func:`vlm_dense.inference.export_file` is the way to them."""
