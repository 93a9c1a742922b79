"""Retrieve with an embedding model, rerank with a cross-encoder, and measure what that gains.

python examples/retrieve_and_rerank.py "a program that pretends to be useful"

The collection is the Free On-line Dictionary of Computing, Debian's package dict-foldoc: headwords are queries, and the
entries without them are the documents. Without a query on the command line, the program asks for 100 headwords and
prints how well each stage, and the sum of their scores, ranks the entries. The small cross-encoder was trained for some
minutes on the other half of the dictionary.
"""

import argparse
import gzip
import random
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from reranker import make

import embedrt

MODEL, BUNDLE = Path("reranker"), Path("reranker-bundle")
CANDIDATES, DOCUMENTS, WORDS = 20, 3000, 60
# A unit of cosine similarity counts as much as so many of a logit: each stage knows what the other does not.
WEIGHT = 20
_DIGITS = {digit: value for value, digit in enumerate(string.ascii_uppercase + string.ascii_lowercase + "0123456789+/")}


def entries(path: Path) -> Iterator[tuple[str, str]]:
    """Headword and entry, as in the index of a dictionary in the format of dictd."""
    content = gzip.decompress(path.read_bytes())
    index = path.with_name(path.name.removesuffix(".dict.dz") + ".index")
    for line in index.read_text(encoding="utf-8").splitlines():
        word, *place = line.split("\t")
        start, length = (sum(_DIGITS[digit] * 64**i for i, digit in enumerate(reversed(text))) for text in place[:2])
        if not word.startswith("00-database"):
            yield word, content[start : start + length].decode("utf-8", "replace")


def collection(path: Path) -> tuple[dict[str, int], list[str]]:
    """Half of the dictionary: the document of each headword that leads to one, and the documents' first words."""
    headwords: dict[str, list[str]] = {}
    for word, entry in entries(path):
        text = entry.partition("\n\n")[2].strip()  # the lines before are the headwords
        if len(text.split()) >= 5:  # shorter ones point to another entry
            headwords.setdefault(text, []).append(word)
    drawn = random.Random(0).sample(list(headwords), len(headwords))[: (len(headwords) + 1) // 2][:DOCUMENTS]  # noqa: S311
    counts = Counter(word for some in headwords.values() for word in some)
    words = {word: i for i, text in enumerate(drawn) for word in headwords[text] if counts[word] == 1}
    return words, [" ".join(text.split()[:WORDS]) for text in drawn]


def cross_encoder() -> embedrt.CrossEncoder:
    """The cross-encoder, exported at the first run."""
    if not BUNDLE.exists():
        print(f"exporting {BUNDLE}")
        embedrt.export(make(MODEL), BUNDLE)
    return embedrt.CrossEncoder(BUNDLE)


def ndcg(found: list[int], right: int) -> float:
    """nDCG@10 of a ranking with one right document: `1 / log2(rank + 1)`, with ranks from 1 on."""
    return float(1 / np.log2(found.index(right) + 2)) if right in found[:10] else 0.0


def main() -> None:
    """Answer the query on the command line, or measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("query", nargs="*")
    parser.add_argument("--dictionary", type=Path, default=Path("/usr/share/dictd/foldoc.dict.dz"))
    parser.add_argument("--queries", type=int, default=100, help="headwords to measure with")
    options = parser.parse_args()
    if not options.dictionary.is_file():
        parser.error(f"{options.dictionary} is missing; install Debian's package dict-foldoc, or name a dictionary")
    words, documents = collection(options.dictionary)
    retriever, reranker = embedrt.Embedder(embedrt.default_model()), cross_encoder()
    vectors = retriever.encode_document(documents)

    def search(queries: list[str]) -> Iterator[list[list[int]]]:
        """The documents of each query in the order of the retriever, the reranker, and both, the best first."""
        retrieved = embedrt.semantic_search(retriever.encode_query(queries), vectors, top_k=CANDIDATES)
        for query, hits in zip(queries, retrieved, strict=True):
            found = [int(hit["corpus_id"]) for hit in hits]
            ranked = reranker.rank(query, [documents[i] for i in found], activation_fn="Identity")
            both = sorted(ranked, key=lambda hit: -hit["score"] - WEIGHT * hits[hit["corpus_id"]]["score"])
            yield [found, *([found[hit["corpus_id"]] for hit in order] for order in (ranked, both))]

    if query := " ".join(options.query):
        ((_, _, best),) = search([query])
        for i in best[:5]:
            print(f"{next((word for word, at in words.items() if at == i), '(several)')}: {documents[i][:100]}")
        return
    asked = list(words)[:: max(1, len(words) // options.queries)][: options.queries]
    scores = [[ndcg(found, words[word]) for found in stages] for word, stages in zip(asked, search(asked), strict=True)]
    retrieved, reranked, both = np.mean(scores, axis=0)
    print(f"{len(asked)} queries among {len(documents)} documents")
    print(f"nDCG@10 retrieved {retrieved:.3f}, reranked {reranked:.3f}, both {both:.3f}")


if __name__ == "__main__":
    main()
