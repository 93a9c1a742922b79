"""Small seeded models with the classification head of every architecture, as transformers saves them.

`scoring_heads.json` holds the cases: keys of config.json over the defaults of the family in `families`.
`reference/scoring/heads.json` holds, per case, the names and shapes of the tensors as transformers saves them, and
`heads.npz` the logits of `pairs_for`, as sentence-transformers computes them; `reference/make_scoring.py` writes both.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from embedrt.bundle.strict_json import decode
from embedrt_export.proof.texts import parity_pairs
from tests.kit import family_models
from tests.kit.family_models import draw, write_byte_tokenizer
from tests.kit.models import write_json, write_tokenizer

CASES = Path(__file__).parent / "scoring_heads.json"
REFERENCE = Path(__file__).parents[1] / "reference" / "scoring"
_TYPES = ["input_ids", "token_type_ids", "attention_mask"]


@dataclass(frozen=True)
class HeadCase:
    """One model with a classification head.

    Attributes:
        family: The model type.
        labels: Number of labels.
        config: Keys of config.json, over the defaults of the family's models without a head.
        token_types: True if the tokenizer passes token types on.
        max_length: Of the tokenizer.
        vocabulary: As of `family_models.Case`; None is that of the family.
        weights: Standard deviation of the random weights.
        renames: As of `family_models.Case`.
        repo_config: The config.json of a hub repo whose keys and names differ; None is what transformers saves.
    """

    family: str = ""
    labels: int = 1
    config: dict[str, Any] = field(default_factory=dict)
    token_types: bool = False
    max_length: int = 48
    vocabulary: str | None = None
    weights: float = 0.15
    renames: dict[str, str] = field(default_factory=dict)
    repo_config: dict[str, Any] | None = None


def head_cases() -> dict[str, HeadCase]:
    """All cases by name, such as "bert: one label"."""
    content = json.loads(CASES.read_bytes())
    found = {}
    for family, cases in content.items():
        defaults = next(iter(family_models.cases(family).values()))
        for name, raw in cases.items():
            case = decode(HeadCase, raw, f"{CASES.name}: {family}: {name}")
            found[f"{family}: {name}"] = replace(
                case,
                family=family,
                config={**_defaults(family), **case.config},
                vocabulary=case.vocabulary or defaults.vocabulary,
            )
    return found


def _defaults(family: str) -> dict[str, Any]:
    content = json.loads((family_models.CASES / f"{family}.json").read_bytes())
    config: dict[str, Any] = content["defaults"]["config"]
    return config


def config_of(case: HeadCase) -> dict[str, Any]:
    """The config.json that transformers saves, of which two labels are the default."""
    labels = {} if case.labels == 2 else {"id2label": {str(i): f"LABEL_{i}" for i in range(case.labels)}}
    return {"model_type": case.family, "architectures": ["AnyForSequenceClassification"], **labels, **case.config}


def write_head_repo(folder: Path, case: HeadCase, shapes: dict[str, list[int]], *, plain: bool = False) -> Path:
    """Writes the model as a folder without modules.json, with random weights of the given shapes.

    Args:
        folder: The folder to write.
        case: The model.
        shapes: The shape of each tensor.
        plain: True to write it as transformers reads it, even if the hub repo has other names.
    """
    if case.vocabulary == "bytes":
        write_byte_tokenizer(folder)
    else:
        write_tokenizer(folder, str(case.vocabulary))
    write_json(folder / "config.json", config_of(case) if plain or case.repo_config is None else case.repo_config)
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_bytes())
    tokenizer_config |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": _TYPES if case.token_types else ["input_ids", "attention_mask"],
        "model_max_length": case.max_length,
    }
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    renamed = family_models.Case(renames={} if plain else case.renames)
    tensors = {
        family_models.stored_name(renamed, name): draw(name, shape, case.weights) for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def pairs_for(case: HeadCase) -> list[tuple[str, str]]:
    """The pairs of the parity report."""
    return parity_pairs(case.max_length)
