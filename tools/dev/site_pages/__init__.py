"""Pages of the documentation site generated from the repository; ``mkdocs.yml`` names the hook."""
