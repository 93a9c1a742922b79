"""Names of a route's files in a bundle."""

from dataclasses import dataclass

from embedrt.bundle.manifest import DEFAULT_ROUTE
from embedrt.types import Task

DATA = "onnx/model.onnx_data"
"""The float32 weights of all routes."""


@dataclass(frozen=True)
class RouteFiles:
    """Files of one route, as paths below the bundle's folder."""

    graph: str
    tokenizer: str
    parity_texts: str
    parity_vectors: str


def route_files(route: str, task: Task) -> RouteFiles:
    """Name the files of a route.

    Args:
        route: The route's name.
        task: The kind of model: reference values that are mostly zeros are stored compressed.
    """
    ending = "npz" if task in {"sparse", "multi-vector"} else "npy"
    if route == DEFAULT_ROUTE:
        return RouteFiles(
            graph="onnx/model.onnx",
            tokenizer="tokenizer.json",
            parity_texts="parity/texts.json",
            parity_vectors=f"parity/vectors.{ending}",
        )
    return RouteFiles(
        graph=f"onnx/{route}.onnx",
        tokenizer=f"tokenizers/{route}.json",
        parity_texts=f"parity/{route}.texts.json",
        parity_vectors=f"parity/{route}.{ending}",
    )
