"""How prompts enter the image tower."""
