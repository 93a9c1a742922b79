"""The local store of bundles, and the way from a model's name to a bundle folder."""

import os
import re
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from embedrt.bundle.atomic import UNFINISHED, publish, staging
from embedrt.bundle.check import user_cache
from embedrt.bundle.manifest import MANIFEST, Manifest, read_bundle, read_manifest
from embedrt.errors import BundleError, ModelNotFoundError

# As on the hub: no part ends with "-" or ".", and none has "--", which stands for the slash in the names of folders.
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_NAME = rf"(?![^@]*--){_PART}(?:/{_PART})?"
_REFERENCE = re.compile(rf"(?P<name>{_NAME})(?:@(?P<revision>[^@]+))?")
# Whose models sentence-transformers takes where a name has no organization.
_ORGANIZATION = "sentence-transformers"


def home(chosen: str | Path | None = None) -> Path:
    """The store's folder: what is chosen, `EMBEDRT_HOME`, `SENTENCE_TRANSFORMERS_HOME`, or the user's cache folder."""
    chosen = chosen or os.environ.get("EMBEDRT_HOME") or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    return Path(chosen).expanduser() if chosen else user_cache()


def stored_path(name: str, revision: str | None = None, cache_folder: str | Path | None = None) -> Path:
    """Where the store keeps a bundle: `org/model` at revision `v2` is the folder `org--model@v2`.

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
    """Every bundle in the store by the name that loads it; a damaged one as the error that tells what is wrong."""
    found: dict[str, Manifest | BundleError] = {}
    for folder in sorted((home() / "bundles").glob("[!.]*")):
        name = folder.name.replace("--", "/", 1)
        if find(name) != folder:  # nothing of ours
            continue
        try:
            found[name] = read_manifest(folder)
        except BundleError as error:
            found[name] = error
    return found


def find(name: str) -> Path | None:
    """The folder of a stored bundle by `name` or `name@revision`; None if there is none."""
    match = _REFERENCE.fullmatch(name)
    folder = stored_path(match["name"], match["revision"]) if match else None
    return folder if folder is not None and folder.is_dir() else None


def remove(name: str) -> Path:
    """Deletes a bundle from the store and returns where it was. `name@revision` names one revision.

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


def copy_bundle(folder: Path, target: str | Path, readme: str | None = None) -> Path:
    """Copies a bundle: the files that its manifest lists and the manifest, whole or not at all.

    Args:
        folder: The bundle.
        target: Where the copy goes. The same bundle may be there already; then nothing is written.
        readme: The text of a `README.md` beside the files.

    Returns:
        `target`, absolute.

    Raises:
        BundleError: The bundle is damaged, or something else is at `target`.
    """
    manifest, target = read_manifest(folder), Path(target).expanduser().absolute()
    if _holds(target, manifest):
        return target
    with staging(target) as fresh:
        for name in (MANIFEST, *manifest.files):
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, fresh / name)
        read_bundle(fresh, "always")
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


def resolve(
    model: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    cache_folder: str | Path | None = None,
) -> Path:
    """From a model's name to a bundle folder.

    Tried in this order: a folder; the local store; a hub repo that is a bundle; an export of a hub repo on the spot, if
    the extra `export` is installed. The last two put the bundle into the store, and neither is tried where
    `local_files_only` or `HF_HUB_OFFLINE` is set. `name@revision` is another way to give the revision. A name without
    an organization is also looked for among those of "sentence-transformers".

    Raises:
        ModelNotFoundError: None of these has it; the message says what to run.
        ValueError: Two revisions are given.
    """
    if not isinstance(model, (str, Path)):
        raise TypeError(f"model_name_or_path: expected a str or a Path, got {type(model).__name__}")
    folder = os.path.expanduser(model)  # noqa: PTH111 - pathlib raises where there is no such user, and where a
    if os.path.isdir(folder):  # noqa: PTH112 - name is too long
        return Path(folder)
    match = _REFERENCE.fullmatch(model) if isinstance(model, str) else None
    if match is None:
        raise ModelNotFoundError(f"{str(model)!r}: no such folder, and not a model name either")
    if match["revision"] and revision not in {None, match["revision"]}:
        raise ValueError(f"revision: {revision!r}, but {model!r} names another")
    revision = match["revision"] or revision
    names = [match["name"]] if "/" in match["name"] else [match["name"], f"{_ORGANIZATION}/{match['name']}"]
    for name in names:
        if (stored_path(name, revision, cache_folder) / MANIFEST).is_file():
            return stored_path(name, revision, cache_folder)
    name = names[-1]
    command = f"embedrt export {name}" + (f" --revision {revision}" if revision else "")

    from embedrt.hub import remote as hub

    if local_files_only or hub.offline():
        raise ModelNotFoundError(
            f"{model!r} is not in the local store {home(cache_folder)}, and the network may not be used; where it may, "
            f"run `{command} -o FOLDER` and copy the folder here"
        )
    try:
        repo = hub.find(name, revision, token)
    except ModelNotFoundError:
        if name == names[0]:
            raise
        name = names[0]
        repo = hub.find(name, revision, token)
    target = stored_path(name, revision, cache_folder)
    if MANIFEST in repo.files:
        with staging(target) as fresh:
            hub.download(repo, token, [MANIFEST], fresh)
            hub.download(repo, token, read_manifest(fresh).files, fresh)
            shutil.rmtree(fresh / ".cache", ignore_errors=True)  # the hub client's bookkeeping
            read_bundle(fresh, "always")
            publish(fresh, target)
        return target
    if find_spec("onnx") is None or find_spec("safetensors") is None:
        raise ModelNotFoundError(
            f"{model!r} is on the hub as a model, and not as a bundle; run `pip install 'embedrt[export]'`, "
            f"then `{command}`"
        )
    from embedrt_export import export

    return export(name, target, name=name, revision=revision, token=token)
