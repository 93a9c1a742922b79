"""Writes docs/models.md from the errors that the live tests measured: `make table`.

Argument: the JSON file that the tests wrote where `EMBEDRT_ERRORS` named it.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

TARGET = Path(__file__).parents[2] / "docs" / "models.md"
HEAD = """\
# Tested models

Each row is a test: a small model of the architecture with seeded random weights, or a chain of modules on the weights
of all-MiniLM-L6-v2, exported and compared with {versions},
on texts of many lengths and scripts. The error is the max absolute error
of a coordinate, for vectors of length 1: alone, in planned batches and, for architectures, in one batch padded on the
left and on the right. "By batch" is the difference between a text encoded alone and among others. The tolerance is
1e-5 for architectures and 2e-6 for modules. `make table` writes this file.
"""

# Section by the group that the live tests note, with its text.
SECTIONS = {
    "head": (
        "Scores of pairs",
        """\
Classification heads as transformers saves them, by `model_type`, and chains of modules that end in scores. The error is
that of a logit, over pairs of texts of many lengths and scripts, divided by the largest norm of a pair's logits if that
is above 1; the tolerance is 1e-5.""",
    ),
    "sparse": (
        "Sparse models",
        """\
SPLADE with every pooling and activation, static weights, Routers, and older formats. The error is that of a weight,
divided by the largest norm of a vector if that is above 1; the tolerance is 1e-5.""",
    ),
    "sparse head": (
        "Heads of masked language models",
        "By `model_type`, with SPLADE pooling; errors as above.",
    ),
    "multi-vector": (
        "Late interaction",
        """\
Models of sentence-transformers, PyLate and Stanford's ColBERT. The error is that of a coordinate of a token's vector of
length 1; the tolerance is 1e-5.""",
    ),
}


def rows(errors: dict[str, dict[str, float]]) -> list[str]:
    """The lines of a table's body."""
    return [f"| {name} | {found['error']:.1e} | {found['by_batch']:.1e} |" for name, found in errors.items()]


def main(path: Path) -> None:
    """Reads what was measured and writes the page."""
    errors = json.loads(path.read_bytes())
    modules = errors.pop("module")
    groups = {name: errors.pop(name) for name in SECTIONS}
    packages = ("sentence-transformers", "transformers", "torch")
    lines = [HEAD.format(versions=", ".join(f"{name} {version(name)}" for name in packages))]
    lines += ["## Architectures", "", "| `model_type` | models | worst error | by batch |", "|---|---|---|---|"]
    for family, cases in sorted(errors.items()):
        worst = max(found["error"] for found in cases.values())
        by_batch = max(found["by_batch"] for found in cases.values())
        lines.append(f"| {family} | {', '.join(cases)} | {worst:.1e} | {by_batch:.1e} |")
    lines += [
        "",
        "## Modules, on the weights of all-MiniLM-L6-v2",
        "",
        "| chain after the transformer | error | by batch |",
    ]
    lines += ["|---|---|---|", *rows(modules)]
    for group, (title, text) in SECTIONS.items():
        lines += [
            "",
            f"## {title}",
            "",
            text,
            "",
            "| model | error | by batch |",
            "|---|---|---|",
            *rows(groups[group]),
        ]
    TARGET.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
