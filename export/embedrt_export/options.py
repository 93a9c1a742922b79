"""Options of an export that decide how its graphs are built."""

from dataclasses import dataclass
from typing import Literal, get_args

Via = Literal["native", "onnx", "optimum"]
Wanted = Literal["auto", "native", "onnx", "optimum"]


@dataclass(frozen=True)
class ExportOptions:
    """Options of the user.

    Attributes:
        via: The way to the graph, or "auto" for the first that fits.
        onnx_file: The ONNX file to take instead of the usual one, relative to the folder of the transformer.
        task: The task whose adapter is merged into the weights, for models that have some.
    """

    via: Wanted = "auto"
    onnx_file: str | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        if self.via not in get_args(Wanted):
            raise ValueError(f"via: expected one of {', '.join(get_args(Wanted))}, got {self.via!r}")
        if self.onnx_file is not None and self.via not in {"auto", "onnx"}:
            raise ValueError(f"onnx_file: {self.onnx_file!r} is for via='onnx', not for via={self.via!r}")
