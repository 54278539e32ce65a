"""Text prompts: from class names to class embeddings."""
