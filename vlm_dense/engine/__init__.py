"""Training beyond mmengine's own: configs, programs, hooks, samplers, checkpoints."""
