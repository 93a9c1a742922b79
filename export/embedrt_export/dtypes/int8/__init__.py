"""The precision int8: the float32 graph with its large products in 8 bits, by scales that no text can change."""
