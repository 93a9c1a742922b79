"""Parity texts and reference vectors."""
