"""agno's embedder."""

import json
import sys

import numpy as np
from agno.knowledge.embedder.sentence_transformer import SentenceTransformerEmbedder

texts, target = json.loads(sys.argv[1]), sys.argv[2]
embedder = SentenceTransformerEmbedder(id="all-MiniLM-L6-v2")
np.save(target, [embedder.get_embedding(text) for text in texts])
