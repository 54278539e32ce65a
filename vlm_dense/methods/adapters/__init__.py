"""How features become logits: adapters, caches, classifiers."""
