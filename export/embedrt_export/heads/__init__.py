"""Modules after the transformer: pooling, dense layers and normalization."""
