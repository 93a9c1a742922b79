"""ONNX graphs: builder, data file, fusion, opset conversion."""
