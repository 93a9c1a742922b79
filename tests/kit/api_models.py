"""Models of the variants, loaded by embedrt: exported once, kept by the arguments of their constructor."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from embedrt import Embedder
from embedrt_export import export
from tests.kit.api_cases import Arguments, write_variant


def loader(source: Path, scratch: Path) -> Callable[[str, Arguments], Embedder]:
    """Makes a function that loads a variant.

    Args:
        source: The model folder of all-MiniLM-L6-v2.
        scratch: An empty folder for models and bundles.
    """

    @cache
    def bundle(variant: str) -> Path:
        return export(write_variant(variant, source, scratch / variant / "model"), scratch / variant / "bundle")

    made: dict[str, Embedder] = {}

    def load(variant: str, constructor: Arguments) -> Embedder:
        key = f"{variant} {constructor}"
        if key not in made:
            made[key] = Embedder(bundle(variant), **constructor)
        return made[key]

    return load
