"""Small seeded models of every architecture family, made without torch, from configs that are written by hand.

`families/MODEL_TYPE.json` holds the cases. `reference/families/MODEL_TYPE.json` holds, per case, the names and shapes
of the tensors as transformers saves them, and `MODEL_TYPE.npz` the vectors of `texts_for`, as sentence-transformers
computes them; `reference/make_families.py` writes both.
"""

import json
import re
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from embedrt.bundle.strict_json import decode
from embedrt_export.proof.texts import parity_texts
from tests.kit.models import SPECIAL, write_json, write_tokenizer

CASES = Path(__file__).parent / "families"
REFERENCE = Path(__file__).parents[1] / "reference" / "families"
FAMILIES = sorted(path.stem for path in CASES.glob("*.json"))
_WORDS = "the model vector one two three token river bank money boats dogs !".split()  # noqa: SIM905 - a text
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Case:
    """One model of a family.

    Attributes:
        config: Keys of config.json beside `model_type`; those of a case go over the defaults of its file.
        pooling: The pooling mode.
        normalize: Whether an L2 normalization follows.
        max_seq_length: Of the Transformer module; None leaves it to the config.
        vocabulary: "bert" has the padding id 0, "mpnet" has 1; "bytes" is that of Qwen2 without merges.
        padding_side: Of the tokenizer.
        model_class: The class of transformers that makes and saves the model.
        weights: Standard deviation of the random weights.
        renames: Patterns of `re` for whole names, and replacements: how hub repos name what transformers saves.
        reference: The model type of transformers to compare with, where it is not the file's name.
        repo_config: Keys of config.json as such a hub repo has them; None leaves those that transformers reads.
    """

    config: dict[str, Any] = field(default_factory=dict)
    pooling: str = "mean"
    normalize: bool = True
    max_seq_length: int | None = 48
    vocabulary: str = "bert"
    padding_side: str = "right"
    model_class: str = "AutoModel"
    weights: float = 0.15
    renames: dict[str, str] = field(default_factory=dict)
    reference: str | None = None
    repo_config: dict[str, Any] | None = None


def cases(family: str) -> dict[str, Case]:
    """The cases of a family by name."""
    content = json.loads((CASES / f"{family}.json").read_bytes())
    defaults = decode(Case, content["defaults"], f"{family}.json: defaults")
    found = {}
    for name, raw in content["cases"].items():
        case = decode(Case, {**content["defaults"], **raw}, f"{family}.json: {name}")
        found[name] = replace(case, config={**defaults.config, **raw.get("config", {})})
    return found


def write_repo(folder: Path, family: str, case: Case, shapes: dict[str, list[int]]) -> Path:
    """Writes the model as a sentence-transformers repo, with random weights of the given shapes."""
    config = {"model_type": case.reference or family, **case.config} if case.repo_config is None else case.repo_config
    if case.vocabulary == "bytes":
        write_byte_tokenizer(folder)
    else:
        write_tokenizer(folder, case.vocabulary)
    write_json(folder / "config.json", config)
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_bytes())
    tokenizer_config |= {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": case.padding_side}
    tokenizer_config.pop("model_max_length", None)
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    tensors = {stored_name(case, name): draw(name, shape, case.weights) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": case.max_seq_length})
    types = ["Transformer", "Pooling", *(["Normalize"] if case.normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(types)
    ]
    write_json(folder / "modules.json", modules)
    hidden = next(case.config[name] for name in ("hidden_size", "dim", "d_model") if name in case.config)
    write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": hidden, "pooling_mode": case.pooling})
    return folder


def as_transformers(case: Case) -> Case:
    """The case as transformers saves it, if it is one of a hub repo with names and keys of its own."""
    return replace(case, renames={}, repo_config=None)


def write_byte_tokenizer(folder: Path) -> None:
    """A tokenizer of single bytes as transformers makes one for Qwen2, whatever class the repo names."""
    tokens = [*SPECIAL["bert"], *sorted(pre_tokenizers.ByteLevel.alphabet())]
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(ids, []))
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(_QWEN_WORDS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL["bert"]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[SEP]"})


def stored_name(case: Case, name: str) -> str:
    """The name of a tensor in the repo, for the name under which transformers saves it."""
    for pattern, replacement in case.renames.items():
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def draw(name: str, shape: list[int], deviation: float) -> NDArray[np.float32]:
    """Random values that depend on the name alone; scales of norms lie around 1."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    values: NDArray[np.float32] = random.normal(0, deviation, shape).astype(np.float32)
    return values + np.float32(len(shape) == 1 and name.endswith("weight"))


def texts_for(max_seq_length: int | None) -> list[str]:
    """The texts of the parity report, and word counts in steps of 7 up to beyond the limit; None is no limit."""
    lengths = range(1, (max_seq_length or 200) + 40, 7)
    by_length = [" ".join(_WORDS[(i * 5 + n) % len(_WORDS)] for i in range(n)) for n in lengths]
    return parity_texts(max_seq_length) + by_length
