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


@dataclass(frozen=True)
class ChainCase:
    """One model in the format of sentence-transformers, over the encoder of a `HeadCase`.

    Attributes:
        base: The name of that case.
        transformer_task: As in sentence_bert_config.json.
        modules: Kind and config of the modules after the transformer.
        labels: Number of labels.
    """

    base: str
    transformer_task: str
    modules: tuple[tuple[str, dict[str, Any]], ...] = ()
    labels: int = 1


_TORCH = "torch.nn.modules"
CHAINS = {
    "saved head": ChainCase("bert: one label", "sequence-classification"),
    "dense, norm, dense": ChainCase(
        "bert: one label",
        "feature-extraction",
        (
            ("Pooling", {"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True}),
            ("Dense", {"in_features": 32, "out_features": 24, "activation_function": f"{_TORCH}.activation.GELU"}),
            ("LayerNorm", {"dimension": 24}),
            (
                "Dense",
                {
                    "in_features": 24,
                    "out_features": 1,
                    "bias": False,
                    "activation_function": f"{_TORCH}.linear.Identity",
                    "module_input_name": "sentence_embedding",
                    "module_output_name": "scores",
                },
            ),
        ),
    ),
    "mean, three labels": ChainCase(
        "distilbert: one label",
        "feature-extraction",
        (
            ("Pooling", {"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True}),
            ("Dense", {"in_features": 32, "out_features": 3, "module_output_name": "scores"}),
        ),
        labels=3,
    ),
}
"""Models in the format of sentence-transformers by name."""
_MODULE_TYPES = {
    "Transformer": "base.modules.transformer.Transformer",
    "Pooling": "sentence_transformer.modules.pooling.Pooling",
    "Dense": "base.modules.dense.Dense",
    "LayerNorm": "sentence_transformer.modules.layer_norm.LayerNorm",
}
_FORWARD = {
    "feature-extraction": ("last_hidden_state", "token_embeddings"),
    "sequence-classification": ("logits", "scores"),
}


def write_chain_repo(folder: Path, chain: ChainCase, shapes: dict[str, list[int]]) -> Path:
    """Writes the model as sentence-transformers saves it; the shapes are those of the base."""
    write_head_repo(folder, head_cases()[chain.base], shapes)
    output, feature = _FORWARD[chain.transformer_task]
    text = {"method": "forward", "method_output_name": output}
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": chain.transformer_task,
            "modality_config": {"text": text},
            "module_output_name": feature,
        },
    )
    modules = ["Transformer", *(kind for kind, _ in chain.modules)]
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(modules) if i)]
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{_MODULE_TYPES[kind]}"}
            for i, (kind, path) in enumerate(zip(modules, paths, strict=True))
        ],
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": "6.2.0"},
            "activation_fn": f"{_TORCH}.activation.Sigmoid",
            "default_prompt_name": None,
            "model_type": "CrossEncoder",
            "prompts": {},
        },
    )
    for path, (kind, config) in zip(paths[1:], chain.modules, strict=True):
        write_json(folder / path / "config.json", config)
        if kind == "Dense":
            shape = [config["out_features"], config["in_features"]]
            weights = {"linear.weight": draw(f"{path}.weight", shape, 0.3)}
            if config.get("bias", True):
                weights["linear.bias"] = draw(f"{path}.bias", shape[:1], 0.3)
            save_file(weights, folder / path / "model.safetensors")
        elif kind == "LayerNorm":
            size = [config["dimension"]]
            norm = {f"norm.{part}": draw(f"{path}.{part}", size, 0.3) for part in ("weight", "bias")}
            save_file(norm, folder / path / "model.safetensors")
    return folder


def pairs_for(case: HeadCase) -> list[tuple[str, str]]:
    """The pairs of the parity report."""
    return parity_pairs(case.max_length)
