"""Contract of a head: a module after the encoder, from its config to nodes of the graph."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from embedrt.errors import ExportError
from embedrt.types import LOGITS
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.inputs import TextInputs
from embedrt_export.source.configs import read_config, strict
from embedrt_export.tokenizer import BuiltTokenizer

Settings = TypeVar("Settings")

# Features whose name in sentence-transformers is not that of the graph's output.
_OUTPUTS = {"scores": LOGITS}


@dataclass(frozen=True)
class Feature:
    """A value that a module passes on to the next modules.

    Attributes:
        value: Its name in the graph: float32 `[batch, sequence, width]` if `per_token`, else `[batch, width]`.
        width: Its width.
        per_token: True if every token has one.
        normalized: True if its vectors have length 1.
    """

    value: str
    width: int
    per_token: bool
    normalized: bool = False


@dataclass(frozen=True)
class Masks:
    """Masks of the tokens to pool over.

    Attributes:
        attention: int64 `[batch, sequence]`: 1 for tokens, 0 for padding.
        pooling: Likewise, with 0 also for tokens that the pooling skips.
        long: True if sums over a row must be computed in blocks: engines add one number after the other, and over
            thousands of tokens the rounding errors grow beyond those of torch, which adds pairwise.
    """

    attention: str
    pooling: str
    long: bool = False


@dataclass(frozen=True)
class Base:
    """The transformer that a head follows, for heads whose weights are beside the encoder's.

    Attributes:
        family: The family's name.
        config: The parsed `config.json`.
        folder: The folder with `config.json` and weights.
        prefixes: Prefixes of the backbone's tensors in repos that were saved with a head.
        renames: Other names under which repos store tensors; see `Family`.
        inputs: The graph's inputs.
        tokenizer: The tokenizer.
    """

    family: str
    config: Mapping[str, Any]
    folder: Path
    prefixes: tuple[str, ...]
    renames: tuple[tuple[str, str], ...]
    inputs: TextInputs
    tokenizer: BuiltTokenizer


@dataclass(frozen=True)
class HeadInputs:
    """Inputs of one head.

    Attributes:
        graph: The graph that the head is added to.
        kind: The module's kind, such as "Dense".
        path: The module's path below the model folder, such as "2_Dense".
        folder: The module's folder.
        features: Features of the modules before it, by name.
        states: Hidden states `[tokens, hidden]` of all encoder layers; empty if the config does not request them, None
            if it does and the encoder does not have them.
        shape: int64 `[2]`: batch and sequence.
        masks: The tokens to pool over.
        base: The transformer; None after a table of token embeddings.
    """

    graph: GraphBuilder
    kind: str
    path: str
    folder: Path
    features: Mapping[str, Feature]
    states: list[str] | None
    shape: str
    masks: Masks
    base: Base | None

    @property
    def where(self) -> str:
        """The module's name in messages."""
        return f"{self.kind} in {self.path!r}"

    def feature(self, name: str) -> Feature:
        """Look up a feature.

        Raises:
            ExportError: No module before this one makes it.
        """
        if name not in self.features:
            raise ExportError(
                f"{self.where}: expected the input {name!r}, but the modules before it only make "
                f"{', '.join(self.features)}"
            )
        return self.features[name]

    def require_width(self, stated: int, found: int) -> None:
        """Require that the width of an input is the one in the config.

        Raises:
            ExportError: The widths differ.
        """
        if stated != found:
            raise ExportError(f"{self.where}: config.json expects {stated} dimensions, but its input has {found}")


@dataclass(frozen=True)
class HeadOutputs:
    """Outputs of one head.

    Attributes:
        features: New or changed features, by name.
        digest: SHA-256 of the weights that it read, if any.
    """

    features: Mapping[str, Feature]
    digest: str | None = None


@dataclass(frozen=True)
class Head:
    """One kind of module.

    Attributes:
        read: Reads the settings from the module's folder, or raises an error that names the key.
        add: Adds the module to the graph.
    """

    read: Callable[[Path], Any]
    add: Callable[[HeadInputs, Any], HeadOutputs]


def feature_name(name: str) -> str:
    """Name of a feature, for the name that configs of sentence-transformers use."""
    return _OUTPUTS.get(name, name)


def config_name(folder: Path) -> str:
    """Name of a module's config in messages."""
    return f"{folder.name}/config.json"


def read_settings(kind: type[Settings], folder: Path) -> Settings:
    """Read the config of a module, whose every key must be known."""
    return strict(kind, read_config(folder / "config.json"), config_name(folder))


def read_optional_settings(kind: type[Settings], folder: Path) -> Settings:
    """Read the config of a module, or return the defaults if there is no config."""
    return read_settings(kind, folder) if (folder / "config.json").is_file() else kind()


def read_pooling_config(folder: Path) -> dict[str, Any]:
    """Read the config of a pooling module, with the current name of the key for its width."""
    content = dict(read_config(folder / "config.json"))
    if "word_embedding_dimension" in content:
        content.setdefault("embedding_dimension", content["word_embedding_dimension"])
        del content["word_embedding_dimension"]
    return content
