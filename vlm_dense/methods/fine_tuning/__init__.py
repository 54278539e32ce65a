"""How the weights of the towers are tuned and mixed."""
