"""What runs a training beyond mmengine's own: configs, programs, hooks, samplers, checkpoints."""
