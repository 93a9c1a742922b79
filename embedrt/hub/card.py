"""The model card of a bundle: what the hub shows as its README.md."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from embedrt.bundle.facts import facts
from embedrt.bundle.manifest import Manifest
from embedrt.bundle.reports import ParityReport, QualityReport

_TAGS = ("embedrt", "sentence-transformers", "feature-extraction", "sentence-similarity", "onnx")
_PLAIN = re.compile(r"[a-z0-9 ]+")
# Ids as the hub has them; nothing in them means anything to YAML or Markdown.
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")

_TEXT = """\
# {title}

A sentence embedding model as a bundle of embedrt: one ONNX graph from token ids to the text's vector, its tokenizer,
and the proof that it computes the vectors of the model that it was made of. It runs without PyTorch.

```sh
pip install 'embedrt[cpu]'
```

```python
from embedrt import Embedder

model = Embedder({load})
vectors = model.encode(["one text", "another"])  # float32 (2, {width})
model.similarity(vectors, vectors)
```

## The model

{facts}

## Proof

Vectors of each graph against the reference. For float32, texts from empty to beyond the limit, each computed alone and
in batches; an error is the largest difference in a coordinate. For lossy dtypes, the cosine similarity to float32 over
natural texts. `embedrt verify` repeats the comparison on your machine.

{proofs}
"""


@dataclass
class ModelCardData:
    """Evaluation results of a model, as evaluators of sentence-transformers report them, for its model card.

    Attributes:
        evaluations: The metrics by name, by the evaluator's name.
    """

    evaluations: dict[str, dict[str, float]] = field(default_factory=dict)

    def set_evaluation_metrics(self, evaluator: Any, metrics: Mapping[str, Any], epoch: int = 0, step: int = 0) -> None:
        """Keep the metrics of one evaluator.

        Args:
            evaluator: The evaluator; its `name` or the name of its class stands on the card.
            metrics: The metrics by name.
            epoch: Has no meaning without training.
            step: Has no meaning without training.
        """
        name = getattr(evaluator, "name", "") or type(evaluator).__name__
        self.evaluations[str(name)] = {str(key): float(value) for key, value in metrics.items()}


def model_card(
    manifest: Manifest, repo_id: str | None = None, evaluations: Mapping[str, Mapping[str, float]] | None = None
) -> str:
    """The README.md of a bundle: front matter for the hub, how to load it, what it computes, and its parity report.

    Every string of the manifest stands in a code span of a table, so that none is taken for Markdown, HTML or YAML.

    Args:
        manifest: The bundle's manifest.
        repo_id: Where it will be on the hub; None for a folder.
        evaluations: Metrics by name, by the name of an evaluator.
    """
    title = manifest.name if repo_id is None else repo_id
    body = _TEXT.format(
        title=_code(title),
        load=repr(repo_id or "path/to/this/folder"),
        width=manifest.truncate_dim or manifest.dim,
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
    lines = ["library_name: embedrt", "pipeline_tag: sentence-similarity", "tags:", *(f"- {tag}" for tag in _TAGS)]
    if manifest.source.kind == "hub" and _HUB_ID.fullmatch(manifest.source.id):
        lines.append(f'base_model: "{manifest.source.id}"')
    return "\n".join(["---", *lines, "---", ""])


def _facts(manifest: Manifest) -> Iterable[tuple[str, str]]:
    """The facts in code spans; labels only where they hold a name of the manifest."""
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
                case QualityReport() as report:
                    yield (
                        *head,
                        str(report.texts),
                        str(report.max_tokens),
                        f"cosine {report.mean_cosine:.5f} in the mean, {report.min_cosine:.5f} at least",
                        f"{report.mean_cosine_allowed} and {report.min_cosine_allowed}",
                        _cell(f"float32; {report.method}"),
                        _cell(report.engine),
                    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(text: str) -> str:
    """A code span in a table, where only the bar has a meaning; readers disagree about one after a backslash."""
    return _code(text).replace("\\|", "\\ |").replace("|", "\\|")


def _code(text: str) -> str:
    """A code span on one line, whatever is in the text."""
    line = "".join(character if character.isprintable() else " " for character in text).strip()
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}" if line else "(empty)"
