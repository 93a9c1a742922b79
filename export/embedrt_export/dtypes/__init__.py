"""Variants of a bundle in other dtypes."""
