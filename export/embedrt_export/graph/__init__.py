"""ONNX graphs: builder, weight file, rewrites."""
