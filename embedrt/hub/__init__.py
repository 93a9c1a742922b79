"""From a model name to a bundle folder: the local store and the Hugging Face hub."""
