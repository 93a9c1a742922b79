"""Pooling, dense layers and normalization after the backbone."""
