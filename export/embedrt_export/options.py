"""Options of an export that decide how its graphs are built."""

from dataclasses import dataclass
from typing import Literal, get_args

from embedrt.types import Task

Via = Literal["native", "onnx", "optimum"]
Wanted = Literal["auto", "native", "onnx", "optimum"]


@dataclass(frozen=True)
class ExportOptions:
    """Options of the user.

    Attributes:
        via: The export method, or "auto" for the first that works.
        onnx_file: An ONNX file to use instead of the default one, relative to the transformer's folder.
        adapter: The task whose adapter is merged into the weights, for models with task adapters.
        task: The kind of model to export; None recognizes it.
    """

    via: Wanted = "auto"
    onnx_file: str | None = None
    adapter: str | None = None
    task: Task | None = None

    def __post_init__(self) -> None:
        if self.via not in get_args(Wanted):
            raise ValueError(f"via: expected one of {', '.join(get_args(Wanted))}, got {self.via!r}")
        if self.task is not None and self.task not in get_args(Task):
            raise ValueError(
                f"task: expected one of {', '.join(get_args(Task))}, got {self.task!r}; task adapters are chosen by "
                "`adapter`"
            )
        if self.onnx_file is not None and self.via not in {"auto", "onnx"}:
            raise ValueError(f"onnx_file: {self.onnx_file!r} needs via='onnx', got via={self.via!r}")
