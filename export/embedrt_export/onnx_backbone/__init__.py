"""Backbones from ONNX files, of the repo or exported by optimum-onnx."""
