"""The model card of a bundle, which the hub shows as its README.md."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from embedrt.bundle.facts import facts
from embedrt.bundle.manifest import Manifest
from embedrt.bundle.reports import ParityReport, QualityReport, RankReport
from embedrt.types import Task

_TAGS = ("embedrt", "sentence-transformers", "onnx")
_PLAIN = re.compile(r"[a-z0-9 ]+")
# Hub ids, which have no special characters of YAML or Markdown.
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")

_TEXT = """\
# {title}

{kind}, the tokenizer, and a parity report against the original model. It runs without PyTorch.

```sh
pip install 'embedrt[cpu]'
```

```python
{usage}
```

## The model

{facts}

## Proof

{compared} of each graph against the reference. For float32: max absolute error, over texts from empty to longer than
the limit, each computed alone and in batches. For lossy dtypes: agreement with float32 over natural texts. `embedrt
verify` repeats the comparison on your machine.

{proofs}
"""


@dataclass(frozen=True)
class _Words:
    """Words about models of a task.

    Attributes:
        kind: The first words about the model.
        usage: Python code, with the fields `load` and `width`.
        compared: What the proof compares.
        pipeline: The hub's name of the task.
        tags: The hub's tags.
    """

    kind: str
    usage: str
    compared: str
    pipeline: str
    tags: tuple[str, ...]


_WORDS: dict[Task, _Words] = {
    "embed": _Words(
        "A sentence embedding model as an embedrt bundle: an ONNX graph from token ids to the sentence embedding",
        """\
from embedrt import Embedder

model = Embedder({load})
vectors = model.encode(["one text", "another"])  # float32 (2, {width})
model.similarity(vectors, vectors)""",
        "Vectors",
        "sentence-similarity",
        ("feature-extraction", "sentence-similarity"),
    ),
    "score": _Words(
        "A cross-encoder as an embedrt bundle: an ONNX graph from the token ids of two texts to their score",
        """\
from embedrt import CrossEncoder

model = CrossEncoder({load})
model.predict([("a query", "a document"), ("a query", "another")])""",
        "Scores",
        "text-ranking",
        ("cross-encoder", "reranker"),
    ),
    "sparse": _Words(
        "A sparse encoder as an embedrt bundle: an ONNX graph from token ids to weights of the vocabulary",
        """\
from embedrt import SparseEncoder

model = SparseEncoder({load})
weights = model.encode_document(["one text", "another"])  # (2, {width})
model.similarity(weights, weights)""",
        "Weights",
        "feature-extraction",
        ("sparse-encoder", "sparse", "feature-extraction"),
    ),
    "multi-vector": _Words(
        "A late-interaction model as an embedrt bundle: an ONNX graph from token ids to one vector for each token",
        """\
from embedrt import MultiVectorEncoder

model = MultiVectorEncoder({load})
documents = model.encode_document(["one text", "another"])  # float32 (tokens, {width}) each
model.similarity(model.encode_query("a query"), documents)""",
        "Vectors",
        "sentence-similarity",
        ("multi-vector", "late-interaction", "feature-extraction"),
    ),
}


@dataclass
class ModelCardData:
    """Evaluation results for the model card, as reported by evaluators of sentence-transformers.

    Attributes:
        evaluations: Metrics by name for each evaluator by name.
    """

    evaluations: dict[str, dict[str, float]] = field(default_factory=dict)

    def set_evaluation_metrics(self, evaluator: Any, metrics: Mapping[str, Any], epoch: int = 0, step: int = 0) -> None:
        """Record the metrics of one evaluator.

        Args:
            evaluator: The evaluator; the card shows its `name`, or the name of its class.
            metrics: The metrics by name.
            epoch: Ignored; there is no training.
            step: Ignored; there is no training.
        """
        name = getattr(evaluator, "name", "") or type(evaluator).__name__
        self.evaluations[str(name)] = {str(key): float(value) for key, value in metrics.items()}


def model_card(
    manifest: Manifest, repo_id: str | None = None, evaluations: Mapping[str, Mapping[str, float]] | None = None
) -> str:
    """Render the README.md of a bundle: front matter, usage, facts and accuracy reports.

    Manifest strings are written as code spans, so that none is parsed as Markdown, HTML or YAML.

    Args:
        manifest: The bundle's manifest.
        repo_id: The hub id of the bundle; None for a folder.
        evaluations: Metrics by name for each evaluator by name.
    """
    title, words = manifest.name if repo_id is None else repo_id, _WORDS[manifest.task]
    body = _TEXT.format(
        title=_code(title),
        kind=words.kind,
        usage=words.usage.format(
            load=repr(repo_id or "path/to/this/folder"), width=manifest.truncate_dim or manifest.dim
        ),
        compared=words.compared,
        facts=_table(("", ""), _facts(manifest)),
        proofs=_table(
            ("route", "dtype", "graph", "texts", "max tokens", "found", "allowed", "reference", "engine"),
            _proofs(manifest),
        ),
    )
    if evaluations:
        rows = [
            (_cell(name), _cell(key), f"{value:.4f}")
            for name, found in evaluations.items()
            for key, value in found.items()
        ]
        body += f"\n## Evaluation\n\n{_table(('evaluator', 'metric', 'value'), rows)}\n"
    return f"{_front_matter(manifest)}\n{body}"


def _front_matter(manifest: Manifest) -> str:
    words = _WORDS[manifest.task]
    lines = ["library_name: embedrt", f"pipeline_tag: {words.pipeline}", "tags:"]
    lines += [f"- {tag}" for tag in (*_TAGS, *words.tags)]
    if manifest.source.kind == "hub" and _HUB_ID.fullmatch(manifest.source.id):
        lines.append(f'base_model: "{manifest.source.id}"')
    return "\n".join(["---", *lines, "---", ""])


def _facts(manifest: Manifest) -> Iterable[tuple[str, str]]:
    """Facts with values in code spans; labels too if they contain a name from the manifest."""
    for label, value in facts(manifest):
        yield label if _PLAIN.fullmatch(label) else _cell(label), _cell(value)


def _proofs(manifest: Manifest) -> Iterable[tuple[str, ...]]:
    for name, route in manifest.routes.items():
        for variant in route.variants:
            head = (_cell(name), _cell(variant.dtype), _cell(variant.file))
            match variant.proof:
                case ParityReport() as report:
                    yield (
                        *head,
                        str(report.texts),
                        str(report.max_tokens),
                        f"{report.max_abs_error:.1e}, by batch {report.max_batch_error:.1e}",
                        f"{report.tolerance:.0e}",
                        _cell(report.reference) + ("" if report.independent else ", not independent"),
                        _cell(report.engine),
                    )
                case RankReport() as report:
                    yield (
                        *head,
                        str(report.texts),
                        str(report.max_tokens),
                        f"rank correlation {report.mean_agreement:.4f}, score error {report.mean_score_error:.1e}",
                        f"{report.mean_agreement_allowed} and {report.mean_score_error_allowed}",
                        _cell(f"float32; {report.method}"),
                        _cell(report.engine),
                    )
                case QualityReport() as report:
                    yield (
                        *head,
                        str(report.texts),
                        str(report.max_tokens),
                        f"cosine {report.mean_cosine:.5f} mean, {report.min_cosine:.5f} min",
                        f"{report.mean_cosine_allowed} and {report.min_cosine_allowed}",
                        _cell(f"float32; {report.method}"),
                        _cell(report.engine),
                    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(text: str) -> str:
    """A code span for a table cell, with bars escaped; parsers disagree about a bar after a backslash."""
    return _code(text).replace("\\|", "\\ |").replace("|", "\\|")


def _code(text: str) -> str:
    """A code span on one line for any text."""
    line = "".join(character if character.isprintable() else " " for character in text).strip()
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}" if line else "(empty)"
