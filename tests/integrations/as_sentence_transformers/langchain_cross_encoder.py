"""LangChain's cross-encoder, and the reranker that is made of it."""

import json
import sys

import numpy as np
from langchain_community.cross_encoders import HuggingFaceCrossEncoder

texts, target = json.loads(sys.argv[1]), sys.argv[2]
model = HuggingFaceCrossEncoder(model_name="reranker", model_kwargs={"device": "cpu"})
np.save(target, model.score([(texts[0], text) for text in texts]))
