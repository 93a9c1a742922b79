"""Backbones that exist as ONNX already, or are exported by optimum-onnx."""
