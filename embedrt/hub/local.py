"""The local store of bundles."""

import os
import re
import shutil
import tempfile
from pathlib import Path

from embedrt.bundle.atomic import UNFINISHED, publish, staging
from embedrt.bundle.check import user_cache
from embedrt.bundle.manifest import MANIFEST, Manifest, read_bundle, read_manifest
from embedrt.bundle.settings import write_settings
from embedrt.errors import BundleError, ModelNotFoundError

# As on the hub: no part ends with "-" or ".", and none has "--", which stands for the slash in the names of folders.
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_NAME = rf"(?![^@]*--){_PART}(?:/{_PART})?"
_REFERENCE = re.compile(rf"(?P<name>{_NAME})(?:@(?P<revision>[^@]+))?")


def home(chosen: str | Path | None = None) -> Path:
    """The store's folder: `chosen`, `EMBEDRT_HOME`, `SENTENCE_TRANSFORMERS_HOME`, or the user's cache folder."""
    chosen = chosen or os.environ.get("EMBEDRT_HOME") or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    return Path(chosen).expanduser() if chosen else user_cache()


def parse(name: str) -> tuple[str, str | None] | None:
    """Split `name` or `name@revision`; None if it is not a model name."""
    match = _REFERENCE.fullmatch(name)
    return (match["name"], match["revision"]) if match else None


def stored_path(name: str, revision: str | None = None, cache_folder: str | Path | None = None) -> Path:
    """Folder of a bundle in the store: `org/model` at revision `v2` is in `org--model@v2`.

    Args:
        name: The bundle's name.
        revision: Its revision.
        cache_folder: Another folder than the store's.

    Raises:
        ValueError: Not a name as the hub has them: letters, digits, `.`, `_` and `-`, with at most one `/`.
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
    """Every bundle in the store by the name that loads it; a damaged one as the error that says what is wrong."""
    found: dict[str, Manifest | BundleError] = {}
    for folder in sorted((home() / "bundles").glob("[!.]*")):
        name = folder.name.replace("--", "/", 1)
        if find(name) != folder:  # not a bundle of the store
            continue
        try:
            found[name] = read_manifest(folder)
        except BundleError as error:
            found[name] = error
    return found


def stored_revisions(name: str) -> list[str]:
    """Every name of the store that is `name` at some revision or at none."""
    folder = stored_path(name)
    return [
        found.name.replace("--", "/", 1)
        for found in [folder, *sorted(folder.parent.glob(f"{folder.name}@*"))]
        if (found / MANIFEST).is_file()
    ]


def find(name: str) -> Path | None:
    """The folder of a stored bundle by `name` or `name@revision`; None if there is none."""
    parsed = parse(name)
    folder = stored_path(*parsed) if parsed else None
    return folder if folder is not None and folder.is_dir() else None


def remove(name: str) -> Path:
    """Delete a bundle from the store and return the folder it was in. `name@revision` names one revision.

    Raises:
        ModelNotFoundError: The store does not have it.
    """
    folder = find(name)
    if folder is None:
        known = ", ".join(stored()) or "the store is empty"
        raise ModelNotFoundError(f"{name!r} is not in the store {home()}; there: {known}")
    # Renamed first, so that nobody finds half of it.
    doomed = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder.parent))
    folder.rename(doomed / folder.name)
    shutil.rmtree(doomed)
    return folder


def copy_bundle(folder: Path, target: str | Path, readme: str | None = None, settings: Manifest | None = None) -> Path:
    """Copy the files that a bundle's manifest lists, and the manifest, whole or not at all.

    Args:
        folder: The bundle.
        target: The folder of the copy. The same bundle may be there already; then nothing is written.
        readme: The text of a `README.md` beside the files.
        settings: The bundle's manifest with other settings, for the copy; None keeps those of the bundle.

    Returns:
        `target`, absolute.

    Raises:
        BundleError: The bundle is damaged, or something else is at `target`.
    """
    manifest, target = read_manifest(folder), Path(target).expanduser().absolute()
    changes = settings is not None and settings != manifest
    if not changes and _holds(target, manifest):
        return target
    with staging(target) as fresh:
        for name in (MANIFEST, *manifest.files):
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, fresh / name)
        read_bundle(fresh, "always")
        if settings is not None and changes:
            manifest = write_settings(fresh, settings)
        if readme is not None:
            (fresh / "README.md").write_bytes(readme.encode())
        publish(fresh, target)
        if not _holds(target, manifest):
            raise BundleError(
                f"{target} is a bundle of the same model with other prompts or ranges; choose another place"
            )
    return target


def _holds(folder: Path, manifest: Manifest) -> bool:
    """Whether a folder is the sound bundle with this manifest."""
    try:
        return read_bundle(folder) == manifest
    except BundleError:
        return False
