"""How the weights of the towers are tuned and mixed."""

from vlm_dense.methods.fine_tuning.clip_lora import CLIPLoRAPrompt, LoRA
from vlm_dense.methods.fine_tuning.wise_ft import WiSEFTHead, WiSEFTHook

__all__ = ['CLIPLoRAPrompt', 'LoRA', 'WiSEFTHead', 'WiSEFTHook']
