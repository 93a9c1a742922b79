"""KeyBERT with the model by name and as an object."""

import json
import sys

import numpy as np
from keybert import KeyBERT
from sentence_transformers import SentenceTransformer

texts, target = json.loads(sys.argv[1]), sys.argv[2]
by_name, by_object = KeyBERT("all-MiniLM-L6-v2"), KeyBERT(SentenceTransformer("all-MiniLM-L6-v2"))
keywords = by_name.extract_keywords(texts[2], top_n=3)
assert len(keywords) == 3
assert keywords == by_object.extract_keywords(texts[2], top_n=3)
np.save(target, by_object.model.embed(texts))
