"""Prompts in the image tower."""
