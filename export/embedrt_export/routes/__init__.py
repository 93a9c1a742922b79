"""A chain of modules to one graph and its entry in the manifest."""
