"""Prompts of both towers."""
