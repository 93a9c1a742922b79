"""The dtype int8: the float32 graph with its large linear layers in 8 bits, by scales that no text can change."""
