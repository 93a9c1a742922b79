"""The model folder: locate it, check its files, read configs and weights."""
