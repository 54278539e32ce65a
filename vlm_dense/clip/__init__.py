"""The vision-language model; the only package that knows open_clip."""

from vlm_dense.clip.loading import check_fit, load_clip, model_config, read_state_dict, tokenize

__all__ = ['check_fit', 'load_clip', 'model_config', 'read_state_dict', 'tokenize']
