"""The model repo: found, checked and read."""
