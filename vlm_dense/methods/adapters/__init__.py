"""Heads from features to logits: adapters, caches, classifiers."""
