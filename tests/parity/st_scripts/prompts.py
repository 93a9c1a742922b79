"""The prompts of a model, given to the constructor or set later; three ways to use one."""

import json

from sentence_transformers import SentenceTransformer

PROMPTS = {"classification": "Name the class of this text: ", "retrieval": "Find a text like this: "}
QUESTION = "How are bricks fired?"

model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2", device="cpu", prompts=PROMPTS)
explicit = model.encode(QUESTION, prompt="Find a text like this: ")
by_name = model.encode(QUESTION, prompt_name="retrieval")
without = model.encode(QUESTION)

model = SentenceTransformer("all-MiniLM-L6-v2", prompts=PROMPTS, default_prompt_name="retrieval")
by_default = model.encode(QUESTION)

model = SentenceTransformer("all-MiniLM-L6-v2")
model.prompts = PROMPTS
model.default_prompt_name = "retrieval"
set_later = model.encode(QUESTION)
written_out = model.encode("Find a text like this: " + QUESTION, prompt="")

found = {
    "explicit": explicit,
    "by_name": by_name,
    "by_default": by_default,
    "set_later": set_later,
    "written_out": written_out,
    "without": without,
}
print(json.dumps({name: vector.tolist() for name, vector in found.items()}))
