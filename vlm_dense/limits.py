"""Limits on input from outside; nothing is imported here, so that programs can name them in their help."""

MAX_PIXELS = 100_000_000
"""Pixels of an image or mask above which it is refused, unless an option says otherwise: 1.2 GB while it is read."""
