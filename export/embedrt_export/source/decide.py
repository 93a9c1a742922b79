"""The three ways to a graph, and which one a model takes."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from embedrt.errors import ExportError
from embedrt_export.families import FAMILIES
from embedrt_export.onnx_backbone import optimum
from embedrt_export.onnx_backbone.read import CANDIDATES, find_body

Via = Literal["native", "onnx", "optimum"]
Wanted = Literal["auto", "native", "onnx", "optimum"]


@dataclass(frozen=True)
class Wish:
    """What the user asked for.

    Attributes:
        via: The way, or "auto" for the first that fits.
        onnx_file: The ONNX file to take instead of the usual one, relative to the folder of the transformer.
        task: The task whose adapter goes into the weights, for models that have some.
    """

    via: Wanted = "auto"
    onnx_file: str | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        if self.via not in get_args(Wanted):
            raise ValueError(f"via: expected one of {', '.join(get_args(Wanted))}, got {self.via!r}")
        if self.onnx_file is not None and self.via not in {"auto", "onnx"}:
            raise ValueError(f"onnx_file: {self.onnx_file!r} is for via='onnx', not for via={self.via!r}")


@dataclass(frozen=True)
class Way:
    """The way that a model takes.

    Attributes:
        via: Its name.
        reason: Why this one, for the log.
        onnx_file: The body, if the way is "onnx".
    """

    via: Via
    reason: str
    onnx_file: str = ""


def choose(wish: Wish, model_type: str, files: Collection[str]) -> Way:
    """Chooses the way for a model.

    Args:
        wish: What the user asked for.
        model_type: The architecture, as `FAMILIES` names it if it is known.
        files: The files in the transformer's folder, as paths with forward slashes.

    Raises:
        ExportError: The repo lacks the file that was asked for.
        MissingDependencyError: The interpreter that `EMBEDRT_OPTIMUM_PYTHON` names is not there.
    """
    if wish.onnx_file is not None:
        if wish.onnx_file not in files:
            raise ExportError(f"{wish.onnx_file}: no such file in the model folder; {_bodies(files)}")
        return Way("onnx", "the file was named", wish.onnx_file)
    body = find_body(files)
    if wish.via == "onnx":
        if body is None:
            raise ExportError(f"via onnx: the model folder has no {' and no '.join(CANDIDATES)}; {_bodies(files)}")
        return Way("onnx", "it was asked for", body)
    return Way(wish.via, "it was asked for") if wish.via != "auto" else _first_that_fits(model_type, files, body)


def _first_that_fits(model_type: str, files: Collection[str], body: str | None) -> Way:
    is_known, has_weights = model_type in FAMILIES, any(name.endswith(".safetensors") for name in files)
    if is_known and (has_weights or body is None):
        return Way("native", f"the architecture {model_type!r} is known")
    if body is not None:
        why = "there are no safetensors" if is_known else f"the architecture {model_type!r} is not known"
        return Way("onnx", f"{why}, and the repo has {body}", body)
    if has_weights and optimum.interpreter() is not None:
        return Way("optimum", f"the architecture {model_type!r} is not known, and the repo has no ONNX body")
    return Way("native", "no other way is open")


def files_in(folder: Path) -> frozenset[str]:
    """The files of a transformer's folder that `choose` looks at."""
    patterns = ("*.safetensors", "*.onnx", "onnx/*.onnx")
    return frozenset(
        path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern) if path.is_file()
    )


def _bodies(files: Collection[str]) -> str:
    found = sorted(name for name in files if name.endswith(".onnx"))
    return f"ONNX files there: {', '.join(found)}" if found else "there are no ONNX files"
