"""Model names to bundle folders: the local store and the Hugging Face hub."""
