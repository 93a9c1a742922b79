"""Math and files for vectors, without a model."""
