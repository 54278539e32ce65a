"""Distillation of a CLIP into itself: towers with features of regions that are those of cut-out images."""
