"""The model of a comparison: its bundle, which is exported if there is none, and the model folder that peers load."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedrt.bench.engines import OWN_INT8, Subject
from embedrt.bench.process import OFFLINE
from embedrt.bundle.check import expanded
from embedrt.bundle.manifest import MANIFEST, read_manifest
from embedrt.compat import real_environment
from embedrt.errors import EmbedrtError, ExportError, ModelNotFoundError
from embedrt.hub.local import parse
from embedrt.hub.resolve import exporter, resolve

_PACKAGE = "package:"
_DEFAULT_DTYPES = ("float32", "int8")


@dataclass(frozen=True)
class Prepared:
    """A bundle to measure.

    Attributes:
        bundle: Its folder.
        source: The model folder or package that it was exported from just now; None where the manifest has the source.
        refused: Why dtypes are missing, by engine.
    """

    bundle: Path
    source: str | None
    refused: dict[str, str]


def find_bundle(model: str, dtypes: Sequence[str] | None, target: Path) -> Prepared:
    """Find the bundle of a model; export the model if there is none.

    Args:
        model: A bundle, a model folder, `package:NAME`, a name in the store, or a hub id.
        dtypes: The dtypes of an export; None for float32, and int8 if the model has it.
        target: The folder of the bundle, if there is an export.

    Raises:
        ModelNotFoundError: There is no such model.
        ExportError: The export failed.
    """
    folder = expanded(model)
    if model.startswith(_PACKAGE) or (folder.is_dir() and not (folder / MANIFEST).is_file()):
        source = model if model.startswith(_PACKAGE) else str(folder)
        return Prepared(target, source, export(source, dtypes, target))
    try:
        return Prepared(resolve(model, local_files_only=True), None, {})
    except ModelNotFoundError:
        from embedrt.hub.remote import find_repo, offline

        parsed = parse(model)
        if parsed is None or offline():
            raise
    name, revision = parsed
    repo = find_repo(name if "/" in name else f"sentence-transformers/{name}", revision, None)
    if MANIFEST in repo.files:
        return Prepared(resolve(model), None, {})
    return Prepared(target, None, export(repo.id, dtypes, target, revision=revision))


def export(
    source: str,
    dtypes: Sequence[str] | None,
    target: Path,
    *,
    name: str | None = None,
    revision: str | None = None,
    offline: bool = False,
    task: str | None = None,
) -> dict[str, str]:
    """Export a model in another process: it may import torch, whose memory this one should not hold meanwhile.

    Args:
        source: As `embedrt export` takes it.
        dtypes: The dtypes; None for float32, and int8 if the model has it.
        target: The folder of the bundle.
        name: Name of the bundle.
        revision: Revision of a hub repo.
        offline: True to use no network.
        task: As `embedrt export` takes it; None recognizes it.

    Returns:
        Why int8 is missing, by engine.

    Raises:
        ExportError: The export failed.
    """
    command = [sys.executable, "-m", "embedrt", "export", source, "--output", str(target)]
    command += ["--name", name] if name is not None else []
    command += ["--revision", revision] if revision is not None else []
    command += ["--task", task] if task is not None else []
    environment = {**real_environment(), **(OFFLINE if offline else {})}

    def run(wanted: Sequence[str]) -> str | None:
        done = subprocess.run(
            [*command, "--dtype", ",".join(wanted)], env=environment, capture_output=True, text=True, check=False
        )
        return (done.stderr.strip() or f"exit status {done.returncode}")[-1000:] if done.returncode else None

    error = run(_DEFAULT_DTYPES if dtypes is None else dtypes)
    if error is None:
        return {}
    if dtypes is None and run(_DEFAULT_DTYPES[:1]) is None:
        return {OWN_INT8: error.splitlines()[-1].removeprefix("embedrt: ")}
    raise ExportError(f"{source}: the export failed: {error.removeprefix('embedrt: ')}")


def describe(prepared: Prepared, source: str | None, *, needs_model: bool) -> Subject:
    """Read a bundle's manifest, and find the model folder that it was made of.

    Args:
        prepared: The bundle.
        source: The model that it was made of; None takes the source in the manifest.
        needs_model: False looks for no model folder.
    """
    manifest = read_manifest(prepared.bundle)
    if not needs_model:
        return Subject(manifest.name, manifest, None, "no engine that runs needs it")
    given = prepared.source or source
    try:
        return Subject(manifest.name, manifest, exporter().model_folder(manifest.source if given is None else given))
    except (EmbedrtError, ValueError, OSError) as error:
        return Subject(manifest.name, manifest, None, str(error))
