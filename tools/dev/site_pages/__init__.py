"""Pages of the documentation site that are made of what the repository holds; ``mkdocs.yml`` names the hook."""
