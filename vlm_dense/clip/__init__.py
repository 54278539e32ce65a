"""The vision-language model; the only package that imports open_clip."""

from vlm_dense.clip.architectures import model_config
from vlm_dense.clip.fit import check_fit
from vlm_dense.clip.loading import load_clip, load_text
from vlm_dense.clip.tokenizer import tokenize
from vlm_dense.clip.weight_files import read_state_dict, read_tensor

__all__ = ['check_fit', 'load_clip', 'load_text', 'model_config', 'read_state_dict', 'read_tensor', 'tokenize']
