"""The dtype int8: static quantization of large linear layers and embedding tables."""
