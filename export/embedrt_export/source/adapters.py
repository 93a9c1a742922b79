"""LoRA adapters of PEFT, merged into the weights of their base model: `W + scaling * B @ A` (arXiv:2106.09685).

Adapters are read as peft loads them: the tensors of `adapter_model.safetensors`, scaled as `adapter_config.json` says.
Other kinds of adapters are not supported.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedrt.errors import ExportError, UnsupportedModelError
from embedrt.hub import remote
from embedrt_export.source.configs import pick, read_config
from embedrt_export.source.weights import Tensor, open_tensors, plain_name, quote

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
_ROOT = "base_model.model."
_MERGE = "merge it with peft (`model.merge_and_unload()`) and save the model"
# Keys that change no weights: about the training, the tool, or layers that text encoders do not have. fan_in_fan_out is
# for layers that store their weight transposed; peft turns it off for all others.
_NEUTRAL = {
    *("auto_mapping", "fan_in_fan_out", "inference_mode", "lora_dropout", "megatron_core", "peft_version"),
    *("qalora_group_size", "task_type"),
}
# Initializations of the matrices. Others, such as "pissa", change the base model's weights too.
_PLAIN_INITS = (True, False, "gaussian")
_MODULE = re.compile(r"\^?[A-Za-z0-9_.]{1,200}")
# Files of the base model; tokenizer and modules are those of the adapter's repo.
_BASE_FILES = re.compile(r"config\.json|model[^/]*\.safetensors(\.index\.json)?")
_A, _B = "lora_A", "lora_B"
_PARTS = {
    ".lora_A.weight": _A,
    ".lora_B.weight": _B,
    ".lora_embedding_A": _A,
    ".lora_embedding_B": _B,
}


@dataclass(frozen=True)
class LoraConfig:
    """Keys of `adapter_config.json` that change the weights, with the defaults of peft."""

    peft_type: Literal["LORA"]
    target_modules: tuple[str, ...]
    base_model_name_or_path: str | None = None
    revision: str | None = None
    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    bias: Literal["none", "all", "lora_only"] = "none"
    modules_to_save: tuple[str, ...] = ()
    init_lora_weights: Any = True


def read_adapter_config(folder: Path) -> LoraConfig:
    """Read `adapter_config.json` of a plain LoRA adapter.

    Raises:
        UnsupportedModelError: It is another kind of adapter; the message names the key.
        ExportError: The file is missing or damaged.
    """
    content = read_config(folder / CONFIG)
    if isinstance(content.get("target_modules"), str):
        raise UnsupportedModelError(
            f"{CONFIG}: target_modules {quote(content['target_modules'])} is a pattern; expected a list of names; "
            f"{_MERGE}"
        )
    known = set(LoraConfig.__dataclass_fields__) | _NEUTRAL
    for key, value in content.items():
        if key not in known and value not in (None, False, {}, []):
            raise UnsupportedModelError(f"{CONFIG}: {quote(key)} is not supported; only plain LoRA is; {_MERGE}")
    config = pick(LoraConfig, content, CONFIG)
    if not (type(config.init_lora_weights) in {bool, str} and config.init_lora_weights in _PLAIN_INITS):
        raise UnsupportedModelError(
            f"{CONFIG}: init_lora_weights {quote(str(config.init_lora_weights))} changes the base weights too; {_MERGE}"
        )
    names = (*config.target_modules, *config.modules_to_save, *config.rank_pattern, *config.alpha_pattern)
    if bad := next((name for name in names if not _MODULE.fullmatch(name)), None):
        raise UnsupportedModelError(f"{CONFIG}: {quote(bad)} is not a module name; {_MERGE}")
    if (rank := min([config.r, *config.rank_pattern.values()])) < 1:
        raise ExportError(f"{CONFIG}: rank: expected a positive integer, got {rank}")
    return config


def find_base(folder: Path, *, is_local: bool, token: str | bool | None) -> Path:
    """Find the folder with `config.json` and weights of a transformer.

    This is the transformer's folder, except for an adapter that is stored without its base model: its config names the
    base model, a local folder or a hub id, which is downloaded.

    Args:
        folder: The transformer's folder.
        is_local: True for a model on this machine. Models from the hub must not refer to local folders.
        token: Hub token; None uses `HF_TOKEN` or the saved login.

    Raises:
        ExportError: The adapter does not name its base model.
        ModelNotFoundError: The base model cannot be found on the hub.
    """
    if not (folder / CONFIG).is_file() or (folder / "config.json").is_file():
        return folder
    config = read_adapter_config(folder)
    name = config.base_model_name_or_path
    if not name or not name.isprintable() or len(name) > 1000:
        raise ExportError(f"{CONFIG}: base_model_name_or_path {quote(str(name))} is not the name of a model; {_MERGE}")
    if is_local:
        for place in (os.path.expanduser(name), folder / name):  # noqa: PTH111 - pathlib raises on names that the
            if os.path.isdir(place):  # noqa: PTH112 - system cannot have
                return Path(place)
    if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", name):
        raise ExportError(
            f"{CONFIG}: base_model_name_or_path {quote(name)} is not a folder on this machine; "
            f"put the base model's config.json and weights beside the adapter, or {_MERGE}"
        )
    repo = remote.find_repo(name, config.revision, token)
    return remote.download(repo, token, [file for file in repo.files if _BASE_FILES.fullmatch(file)])


class Adapter:
    """One LoRA adapter: low-rank updates of some tensors of the base model, and replacements of others.

    Args:
        folder: The folder with `adapter_config.json` and `adapter_model.safetensors`.
        prefixes: As for `Weights`.

    Raises:
        UnsupportedModelError: It is not a plain LoRA adapter.
        ExportError: A file is damaged, or the tensors do not match the config.
    """

    def __init__(self, folder: Path, prefixes: tuple[str, ...]) -> None:
        self._config = read_adapter_config(folder)
        if not (folder / TENSORS).is_file():
            raise ExportError(
                f"{folder.name}: no {TENSORS}; save the adapter as safetensors with peft's `save_pretrained`"
            )
        self._parts: dict[str, dict[str, Tensor]] = {}
        self._replaced: dict[str, Tensor] = {}
        self._used: set[str] = set()
        found = [(tensor.name.removeprefix(_ROOT), tensor) for tensor in open_tensors(folder / TENSORS)]
        prefix = next((p for p in prefixes if any(name.startswith(p) for name, _ in found)), "")
        for name, tensor in found:
            self._add(name.removeprefix(prefix), tensor)

    def replaces(self, name: str) -> bool:
        """True if the adapter replaces a tensor of the base model."""
        return name in self._replaced

    def replacement(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Tensor that replaces one of the base model."""
        self._used.add(name)
        tensor = self._replaced[name]
        if tensor.shape != shape:
            raise ExportError(f"{tensor} has shape {tensor.shape}, config.json requires {shape}")
        return tensor.read()

    def merge(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Merge the adapter into a tensor of the base model, if it has an update for it."""
        parts = self._parts.get(name)
        module = name.removesuffix(".weight")
        if parts is None:
            if values.ndim == 2 and name.endswith(".weight") and _names(module, self._config.target_modules):
                raise ExportError(
                    f"{TENSORS}: no tensors for {quote(module)}, which is one of the target_modules; {_MERGE}"
                )
            return values
        self._used.add(name)
        if set(parts) != {_A, _B}:
            raise ExportError(f"{TENSORS}: {quote(module)} has only {', '.join(parts)}; get the file again")
        rank = _by_pattern(self._config.rank_pattern, module, self._config.r)
        alpha = _by_pattern(self._config.alpha_pattern, module, self._config.lora_alpha)
        scaling = alpha / (rank**0.5 if self._config.use_rslora else rank)
        a, b = parts[_A], parts[_B]
        # An embedding table is `[words, width]`, the transpose of a linear layer's `[outputs, inputs]`.
        is_table = a.name.endswith("lora_embedding_A")
        outputs, inputs = values.shape[::-1] if is_table else values.shape
        for tensor, shape in ((a, (rank, inputs)), (b, (outputs, rank))):
            if tensor.shape != shape:
                raise ExportError(f"{tensor} has shape {tensor.shape}, base model and {CONFIG} require {shape}")
        merged = a.read().T @ b.read().T if is_table else b.read() @ a.read()
        merged *= np.float32(scaling)
        merged += values
        return merged

    def unused(self, *starts: str) -> list[str]:
        """Names of tensors of the adapter that start with one of `starts` and were not read."""
        return sorted(name for name in {*self._parts, *self._replaced} - self._used if name.startswith(starts))

    def _add(self, name: str, tensor: Tensor) -> None:
        suffix = next((suffix for suffix in _PARTS if name.endswith(suffix)), None)
        if suffix is not None:
            module = name.removesuffix(suffix)
            if not _names(module, self._config.target_modules) or _names(module, self._config.modules_to_save):
                raise ExportError(f"{tensor} is for a module that is not one of the target_modules of {CONFIG}")
            _put(self._parts.setdefault(f"{module}.weight", {}), _PARTS[suffix], tensor)
            return
        name = plain_name(name.replace(".base_layer.", "."), "")
        module, _, parameter = name.rpartition(".")
        is_bias = parameter == "bias" and (
            self._config.bias == "all"
            or (self._config.bias == "lora_only" and _names(module, self._config.target_modules))
        )
        if not is_bias and not _names(module, self._config.modules_to_save):
            raise UnsupportedModelError(
                f"{tensor} is neither a LoRA matrix nor one that {CONFIG} names (bias {self._config.bias!r}, "
                f"modules_to_save {', '.join(self._config.modules_to_save) or 'none'}); {_MERGE}"
            )
        _put(self._replaced, name, tensor)


def _put(tensors: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if tensors.setdefault(name, tensor) is not tensor:
        raise ExportError(f"{tensor} and tensor {quote(tensors[name].name)} update the same weight; get the file again")


def _names(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _by_pattern(patterns: dict[str, Any], module: str, default: Any) -> Any:
    """Value of the first pattern that matches the end of a module's name, as in peft."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)
