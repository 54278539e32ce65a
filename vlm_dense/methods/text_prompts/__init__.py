"""How class names become class embeddings."""
