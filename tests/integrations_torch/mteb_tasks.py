"""Tasks of MTEB from texts that are here: similarity, retrieval, and reranking."""

from typing import Any

from datasets import Dataset
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

PAIRS = [
    ("Sea otters hold hands while they sleep.", "Otters sleep on their backs.", 4.0),
    ("The stadium is full of people.", "A crowd fills the arena.", 4.5),
    ("Ein Hund läuft über die Straße.", "A dog crosses the road.", 3.5),
    ("The river floods the town.", "The bank lends money.", 0.5),
    ("Simmer the onions.", "The striker scored twice.", 0.0),
    ("A cat sleeps by the window.", "The dog barks at night.", 1.5),
]
QUERIES = {"q1": "How do otters sleep?", "q2": "a full arena", "q3": "what to do with onions"}
CORPUS = {f"d{i}": text for i, (text, _, _) in enumerate(PAIRS)}
RELEVANT = {"q1": {"d0": 1}, "q2": {"d1": 1}, "q3": {"d4": 1}}


def metadata(name: str, kind: str, score: str) -> TaskMetadata:
    """The description of a task."""
    return TaskMetadata(
        name=name,
        description="a few texts",
        dataset={"path": "local/texts", "revision": "1"},
        type=kind,
        category="t2t",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=score,
    )


class Similarity(AbsTaskSTS):  # type: ignore[misc]
    """Six pairs."""

    metadata = metadata("LocalSimilarity", "STS", "cosine_spearman")

    def load_data(self, *_: Any, **__: Any) -> None:
        rows = [{"sentence1": one, "sentence2": other, "score": score} for one, other, score in PAIRS]
        self.dataset = {"test": Dataset.from_list(rows)}
        self.data_loaded = True


class Retrieval(AbsTaskRetrieval):  # type: ignore[misc]
    """Three queries and six documents."""

    metadata = metadata("LocalRetrieval", "Retrieval", "ndcg_at_10")
    top_ranked: dict[str, list[str]] | None = None

    def load_data(self, *_: Any, **__: Any) -> None:
        queries, corpus = (
            Dataset.from_list([{"id": name, "text": text} for name, text in texts.items()])
            for texts in (QUERIES, CORPUS)
        )
        split = {"queries": queries, "corpus": corpus, "relevant_docs": RELEVANT, "top_ranked": self.top_ranked}
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class Reranking(Retrieval):
    """The same, with all documents to rerank."""

    metadata = metadata("LocalReranking", "Reranking", "map_at_1000")
    top_ranked = {query: list(CORPUS) for query in QUERIES}  # noqa: RUF012
