"""The local store of bundles."""

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from embedrt.bundle.atomic import publish
from embedrt.bundle.check import expanded, user_cache
from embedrt.bundle.disk import room
from embedrt.bundle.manifest import MANIFEST, Bundle, Manifest, read_bundle, read_manifest, write_manifest
from embedrt.bundle.settings import write_settings
from embedrt.bundle.staging import clear, staging
from embedrt.errors import BundleError, ModelNotFoundError

# As on the hub: no part ends with "-" or ".", and none contains "--", which replaces the slash in folder names.
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_NAME = rf"(?![^@]*--){_PART}(?:/{_PART})?"
_REFERENCE = re.compile(rf"(?P<name>{_NAME})(?:@(?P<revision>[^@]+))?")


def home(chosen: str | Path | None = None) -> Path:
    """The store's folder: `chosen`, `EMBEDRT_HOME`, `SENTENCE_TRANSFORMERS_HOME`, or the user's cache folder.

    Raises:
        ModelNotFoundError: The user has no home folder.
        ValueError: The folder starts with a "~" that stands for no folder.
    """
    chosen = chosen or os.environ.get("EMBEDRT_HOME") or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    return expanded(chosen) if chosen else user_cache()


def parse(name: str) -> tuple[str, str | None] | None:
    """Split `name` or `name@revision`; None if it is not a model name."""
    match = _REFERENCE.fullmatch(name)
    return (match["name"], match["revision"]) if match else None


def stored_path(name: str, revision: str | None = None, cache_folder: str | Path | None = None) -> Path:
    """The folder of a bundle in the store: `org/model` at revision `v2` is in `org--model@v2`.

    Args:
        name: The bundle's name.
        revision: The revision.
        cache_folder: A folder to use instead of the store.

    Raises:
        ValueError: The name is not valid on the hub: letters, digits, `.`, `_` and `-`, with at most one `/`.
    """
    if not re.fullmatch(_NAME, name):
        raise ValueError(
            f"{name!r} is not a model name; expected `name` or `org/name` of letters, digits and '_', with '.' and '-' "
            "between them, and no '--'"
        )
    folder = name.replace("/", "--")
    if revision is not None:
        folder += "@" + re.sub(r"[^A-Za-z0-9._-]", "--", revision)
    return home(cache_folder) / "bundles" / folder


def stored() -> dict[str, Manifest | BundleError]:
    """The bundles in the store by name; a damaged bundle has its error instead of a manifest."""
    bundles: dict[str, Manifest | BundleError] = {}
    for folder in sorted((home() / "bundles").glob("[!.]*")):
        name = folder.name.replace("--", "/", 1)
        if stored_folder(name) != folder:  # not a bundle of the store
            continue
        try:
            bundles[name] = read_manifest(folder)
        except BundleError as error:
            bundles[name] = error
    return bundles


def stored_revisions(name: str) -> list[str]:
    """The names of the stored revisions of `name`, including the one without a revision."""
    folder = stored_path(name)
    return [
        path.name.replace("--", "/", 1)
        for path in [folder, *sorted(folder.parent.glob(f"{folder.name}@*"))]
        if (path / MANIFEST).is_file()
    ]


def stored_folder(name: str) -> Path | None:
    """The folder of a stored bundle by `name` or `name@revision`; None if it is not stored."""
    parsed = parse(name)
    folder = stored_path(*parsed) if parsed else None
    return folder if folder is not None and folder.is_dir() else None


def remove(name: str) -> Path:
    """Delete a bundle from the store, by `name` or `name@revision`, and return its former folder.

    Raises:
        ModelNotFoundError: The bundle is not in the store.
    """
    clear(home() / "bundles")
    folder = stored_folder(name)
    if folder is None:
        known = ", ".join(stored()) or "the store is empty"
        raise ModelNotFoundError(f"{name!r} is not in the store {home()}; there: {known}")
    with staging(folder) as doomed:  # so that no other process finds a half-deleted bundle
        doomed.rmdir()
        folder.rename(doomed)
    return folder


def copy_bundle(
    bundle: Bundle, target: str | Path, readme: str | None = None, settings: Manifest | None = None
) -> Path:
    """Copy a bundle atomically: the manifest and the files that it lists.

    Args:
        bundle: The open bundle.
        target: The folder of the copy. If it is the same bundle already, nothing is written.
        readme: The text of a `README.md` to add.
        settings: The bundle's manifest with other settings, for the copy; None keeps those of the bundle.

    Returns:
        `target`, absolute.

    Raises:
        BundleError: The bundle is damaged, or something else is at `target`.
    """
    target = expanded(target).absolute()
    manifest = bundle.manifest if settings is None else settings
    if manifest == bundle.manifest and _holds(target, manifest):
        return target
    size = sum(record.size for record in manifest.files.values())
    with room(target, size, BundleError), staging(target) as fresh:
        bundle.files.load(bundle.manifest.files, lambda root: _copy(root, fresh, bundle.manifest.files))
        write_manifest(fresh, bundle.manifest)
        read_bundle(fresh, "always")
        if manifest != bundle.manifest:
            manifest = write_settings(fresh, manifest)
        if readme is not None:
            (fresh / "README.md").write_bytes(readme.encode())
        publish(fresh, target)
        if not _holds(target, manifest):
            raise BundleError(
                f"{target} is a bundle of the same model with other prompts or ranges; choose another folder"
            )
    return target


def _copy(folder: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target / name)


def _holds(folder: Path, manifest: Manifest) -> bool:
    """Return True if a folder is an intact bundle with this manifest."""
    try:
        return read_bundle(folder) == manifest
    except BundleError:
        return False
