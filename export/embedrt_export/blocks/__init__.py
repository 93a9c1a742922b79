"""Stacks of layers that families share."""
