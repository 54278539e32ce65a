"""Trained open-vocabulary segmentation: any class names at test time, learned from masks of some.

``cost_volume.py`` has what CAT-Seg and SED share, ``proposals.py`` what FC-CLIP, MAFT+ and SAN do.
"""
