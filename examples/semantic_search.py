"""Search Python's language reference by meaning, with vectors stored on disk.

python examples/semantic_search.py "run code even if an error occurs"
"""

import sys
from pathlib import Path
from pydoc_data.topics import topics

import embedrt

STORE = Path("python-topics.npy")
MAX_CHARACTERS = 8000  # of a topic, so that the first run takes seconds


def passages() -> list[str]:
    """Passages of about 60 words from the shorter topics that `help()` shows, each with its topic before it."""
    found = []
    for topic, text in sorted(topics.items()):
        if len(text) > MAX_CHARACTERS:
            continue
        passage = ""
        for paragraph in text.split("\n\n"):
            passage = f"{passage} {' '.join(paragraph.split())}".strip()
            if len(passage.split()) >= 60:
                found.append(f"{topic}: {passage}")
                passage = ""
        if passage:
            found.append(f"{topic}: {passage}")
    return found


def corpus(model: embedrt.Embedder) -> embedrt.Embeddings:
    """The stored vectors, or new ones at the first run. Vectors of another model are an error."""
    if STORE.exists():
        print(f"reading {STORE}")
        return embedrt.load_embeddings(STORE, model)
    texts = passages()
    print(f"encoding {len(texts)} passages into {STORE}")
    embedrt.save_embeddings(STORE, texts, model.encode_document(texts, normalize_embeddings=True), model)
    return embedrt.load_embeddings(STORE, model)


def main() -> None:
    """Search for the words on the command line."""
    query = " ".join(sys.argv[1:]) or "run code even if an error occurs"
    model = embedrt.Embedder(embedrt.default_model())
    stored = corpus(model)
    (hits,) = embedrt.semantic_search(model.encode_query(query), stored.vectors, top_k=5)
    print(f"\n{query}\n")
    for hit in hits:
        print(f"{hit['score']:.2f}  {stored.texts[int(hit['corpus_id'])][:110]}")


if __name__ == "__main__":
    main()
