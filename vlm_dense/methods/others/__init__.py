"""Methods beside prompts and adapters."""
