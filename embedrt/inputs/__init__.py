"""Inputs of a call: checked and tokenized."""
