"""The interface of the dtype writers: a bundle that is being made, and how a writer adds to it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embedrt.bundle.manifest import Manifest
from embedrt_export.dtypes.int8.texts import Texts
from embedrt_export.proof.reference import ReferenceKind
from embedrt_export.routes.repo import ModelSpec


@dataclass(frozen=True)
class Draft:
    """A bundle that is being made.

    Attributes:
        folder: Its files.
        manifest: Its manifest so far.
        spec: The model that it is made of.
        reference: The reference of the float32 proof.
        texts: Calibration texts; None if no writer that was asked for takes any.
    """

    folder: Path
    manifest: Manifest
    spec: ModelSpec
    reference: ReferenceKind
    texts: Texts | None


@dataclass(frozen=True)
class Writer:
    """A dtype.

    Attributes:
        write: Writes the variants of every route with their proofs, and returns the manifest with them.
        require: Raises a DeviceError if this machine cannot run the dtype, and so cannot prove it.
        takes_texts: True if it is calibrated with texts.
    """

    write: Callable[[Draft], Manifest]
    require: Callable[[], None]
    takes_texts: bool
