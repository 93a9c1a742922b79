"""Contract of a dtype writer, and the unfinished bundle that it adds to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embedrt.bundle.manifest import Manifest
from embedrt_export.dtypes.int8.texts import Texts
from embedrt_export.proof.reference import ReferenceKind
from embedrt_export.routes.decide import Decisions
from embedrt_export.routes.repo import ModelSpec


@dataclass(frozen=True)
class Draft:
    """An unfinished bundle.

    Attributes:
        folder: The folder with its files.
        manifest: Its manifest so far.
        spec: The model.
        reference: The reference for the float32 proof.
        decisions: The export method of every transformer.
        texts: Calibration texts; None if no requested dtype needs them.
    """

    folder: Path
    manifest: Manifest
    spec: ModelSpec
    reference: ReferenceKind
    decisions: Decisions
    texts: Texts | None


@dataclass(frozen=True)
class Writer:
    """Writer of one dtype.

    Attributes:
        write: Writes the variants of every route with their proofs, and returns the new manifest.
        require: Raises a DeviceError if this machine cannot run the dtype, and so cannot verify it.
        takes_texts: True if the dtype needs calibration texts.
    """

    write: Callable[[Draft], Manifest]
    require: Callable[[], None]
    takes_texts: bool
