"""Routes: each is a chain of modules, built as one graph with its entry in the manifest."""
