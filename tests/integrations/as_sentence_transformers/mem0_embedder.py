"""mem0's embedder."""

import json
import sys

import numpy as np
from mem0.configs.embeddings.base import BaseEmbedderConfig
from mem0.embeddings.huggingface import HuggingFaceEmbedding

texts, target = json.loads(sys.argv[1]), sys.argv[2]
embedder = HuggingFaceEmbedding(BaseEmbedderConfig(model="all-MiniLM-L6-v2", model_kwargs={"device": "cpu"}))
np.save(target, [embedder.embed(text, memory_action="add") for text in texts])
