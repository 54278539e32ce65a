"""Models as files of ONNX and ``torch.export``, and such files as models; the functions are in ``vlm_dense.apis``."""
