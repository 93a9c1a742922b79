"""The cases run through sentence-transformers, in float32 on the CPU: for golden files and live comparisons."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from tests.kit.api_cases import VARIANTS, Arguments, Case, write_variant
from tests.kit.api_outcomes import Failure, Outcome, in_float32, outcome


def reference(source: Path, scratch: Path) -> Callable[[Case], Outcome]:
    """Makes a function that runs a case.

    Args:
        source: The model folder of all-MiniLM-L6-v2.
        scratch: An empty folder for the models.
    """
    folders = {name: write_variant(name, source, scratch / name.replace(" ", "-")) for name in VARIANTS}
    made: dict[str, Any] = {}

    def load(variant: str, constructor: Arguments) -> Any:
        key = f"{variant} {constructor}"
        if key not in made:
            arguments = {"model_kwargs": {"dtype": "float32"}, "device": "cpu", **constructor}
            made[key] = SentenceTransformer(str(folders[variant]), **arguments)
        return made[key]

    def run(case: Case) -> Outcome:
        found, floats = outcome(load, case), in_float32(case)
        if floats is None or isinstance(found.result, Failure):
            return found
        return replace(found, floats=outcome(load, floats).result)

    return run
