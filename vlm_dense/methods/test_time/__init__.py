"""How a classifier adapts to one image before it classifies that image."""
