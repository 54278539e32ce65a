"""Fine-tuning and mixing of the weights of the towers."""
