"""Math and files for vectors; needs no model."""
