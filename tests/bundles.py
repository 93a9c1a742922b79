"""Copies of bundles, and ways to change them: carelessly, or consistently with a manifest that fits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from embedrt.bundle import MANIFEST, sha256_of

Json = dict[str, Any]


def copy_bundle(bundle: Path, folder: Path) -> Path:
    """A copy of the bundle at `folder`, to damage."""
    shutil.copytree(bundle, folder)
    return folder


def read_raw(folder: Path) -> Json:
    """The manifest as plain JSON."""
    raw: Json = json.loads((folder / MANIFEST).read_bytes())
    return raw


def write_raw(folder: Path, raw: Any) -> None:
    """Writes any JSON as the manifest."""
    (folder / MANIFEST).write_text(json.dumps(raw), encoding="utf-8")


def change(folder: Path, edit: Callable[[Json], Any]) -> None:
    """Lets `edit` change the manifest's JSON in place."""
    raw = read_raw(folder)
    edit(raw)
    write_raw(folder, raw)


def rehash(folder: Path) -> None:
    """Makes the manifest list the files as they are now."""
    raw = read_raw(folder)
    for name, record in raw["files"].items():
        record.update(size=(folder / name).stat().st_size, sha256=sha256_of(folder / name))
    write_raw(folder, raw)
