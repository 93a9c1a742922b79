"""Retrieve the passages that answer a question, and show the prompt for a language model.

python examples/rag.py "How do I compare two text files?"
"""

import ast
import sys
import sysconfig
from pathlib import Path

import embedrt


def documents() -> dict[str, str]:
    """The docstring of each module in Python's standard library, by module name."""
    found = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_bytes()))
        if docstring:
            found[path.stem] = docstring
    return found


def main() -> None:
    """Retrieve for the question on the command line."""
    question = " ".join(sys.argv[1:]) or "How do I compare two text files?"
    modules = documents()
    names = list(modules)
    model = embedrt.Embedder(embedrt.default_model())
    vectors = model.encode_document([f"{name}: {text}" for name, text in modules.items()])
    (hits,) = embedrt.semantic_search(model.encode_query(question), vectors, top_k=3)
    print("Answer the question from these passages only.\n")
    for number, hit in enumerate(hits, start=1):
        name = names[int(hit["corpus_id"])]
        print(f"[{number}] module {name} (score {hit['score']:.2f})\n{modules[name][:300]}\n")
    print(f"Question: {question}")


if __name__ == "__main__":
    main()
