"""Retrieve with an embedding model, rerank with a cross-encoder, and measure what that gains.

python examples/retrieve_and_rerank.py "wait until a thread has ended"

The collection are docstrings of Python's standard library. Each has a first sentence and more text after it: the
sentences are queries, and the texts are what they should find. Without a query on the command line, the program asks
100 such sentences and prints how well both stages rank the right text.
"""

import ast
import sys
import sysconfig
import zlib
from pathlib import Path

import numpy as np
from reranker import make

import embedrt

MODEL, BUNDLE = Path("reranker"), Path("reranker-bundle")
CANDIDATES = 30  # of the first stage, which the second one reranks
LEFT_OUT = {
    "test",
    "tests",
    "site-packages",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "ensurepip",
    "pydoc_data",
    "encodings",
}


def collection() -> dict[str, str]:
    """The text after the first sentence of a docstring, by that sentence: the half that no training has seen."""
    found: dict[str, str] = {}
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if LEFT_OUT & set(parts) or any(part.startswith("_") and part != "__init__.py" for part in parts):
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            head, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
            head, rest = (" ".join(text.split()) for text in (head, rest))
            if 3 <= len(head.split()) <= 20 and len(rest.split()) >= 10 and not zlib.crc32(head.encode()) % 2:
                found.setdefault(head, rest)
    return found


def cross_encoder() -> embedrt.CrossEncoder:
    """The cross-encoder, exported at the first run."""
    if not BUNDLE.exists():
        print(f"exporting {BUNDLE}")
        embedrt.export(make(MODEL), BUNDLE)
    return embedrt.CrossEncoder(BUNDLE)


def ndcg(rank: int | None) -> float:
    """nDCG@10 of one right document, whose rank counts from 0: `1 / log2(rank + 2)`, or 0 below the tenth."""
    return 0.0 if rank is None or rank >= 10 else float(1 / np.log2(rank + 2))


def main() -> None:
    """Answer the query on the command line, or measure."""
    texts = collection()
    sentences, documents = list(texts), list(texts.values())
    bi_encoder, reranker = embedrt.Embedder(embedrt.default_model()), cross_encoder()
    vectors = bi_encoder.encode_document(documents)
    query = " ".join(sys.argv[1:])
    queries = [query] if query else sentences[:: max(1, len(sentences) // 100)][:100]
    retrieved = embedrt.semantic_search(bi_encoder.encode_query(queries), vectors, top_k=CANDIDATES)

    first, second = [], []
    for question, hits in zip(queries, retrieved, strict=True):
        found = [int(hit["corpus_id"]) for hit in hits]
        ranked = [found[int(hit["corpus_id"])] for hit in reranker.rank(question, [documents[i] for i in found])]
        if query:
            for i in ranked[:5]:
                print(f"{sentences[i]}\n    {documents[i][:100]}")
            return
        right = sentences.index(question)
        first.append(ndcg(found.index(right) if right in found else None))
        second.append(ndcg(ranked.index(right) if right in ranked else None))
    print(f"{len(queries)} queries among {len(documents)} documents")
    print(f"nDCG@10 retrieved: {np.mean(first):.3f}")
    print(f"nDCG@10 reranked: {np.mean(second):.3f}")


if __name__ == "__main__":
    main()
