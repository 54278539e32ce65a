"""Methods compared under one protocol: ``vlm-dense compare``."""
