"""Live comparisons with torch, transformers and sentence-transformers, and nothing from the network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
