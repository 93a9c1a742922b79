"""Resolution of a model name to a bundle folder: a local folder, the store, the hub, or an export on the fly."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from embedrt.bundle.atomic import publish
from embedrt.bundle.manifest import MANIFEST, read_bundle, read_manifest
from embedrt.bundle.opened import TRIES
from embedrt.bundle.staging import recover, staging
from embedrt.errors import ModelNotFoundError
from embedrt.hub.local import home, parse, stored_path, stored_revisions
from embedrt.types import Task

# sentence-transformers looks here for names without an organization.
_ORGANIZATION = "sentence-transformers"


def resolve(
    model: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    cache_folder: str | Path | None = None,
    task: Task | None = None,
) -> Path:
    """Find the bundle folder of a model; download or export it if needed.

    The order is: a folder; `cache_folder`, if given; the local store; a hub repo that is a bundle; an export of a hub
    repo on the fly, if the extra `export` is installed. The last two write to `cache_folder` or the store, and are
    skipped if `local_files_only` or `HF_HUB_OFFLINE` is set. `name@revision` also names a revision. A name without an
    organization is also looked up in "sentence-transformers".

    Args:
        model: Folder or model name.
        revision: Branch, tag or commit of a hub repo.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        local_files_only: True never uses the network.
        cache_folder: A folder for bundles that is searched before the local store.
        task: The task for an export on the fly; None recognizes it.

    Raises:
        ModelNotFoundError: The model was not found; the message has the command to run.
        ValueError: `model` and `revision` name different revisions.
    """
    if not isinstance(model, (str, Path)):
        raise TypeError(f"model_name_or_path: expected a str or a Path, got {type(model).__name__}")
    folder = os.path.expanduser(model)  # noqa: PTH111 - pathlib raises where there is no such user, and where a
    for _ in range(TRIES):
        if not recover(Path(folder)):
            break
        if os.path.isdir(folder):  # noqa: PTH112 - name is too long
            return Path(folder)
    parsed = parse(model) if isinstance(model, str) else None
    if parsed is None:
        raise ModelNotFoundError(f"{str(model)!r}: neither an existing folder nor a model name")
    base, named_revision = parsed
    if named_revision and revision not in {None, named_revision}:
        raise ValueError(f"revision: {revision!r}, but {model!r} names another")
    revision = named_revision or revision
    names = [base] if "/" in base else [base, f"{_ORGANIZATION}/{base}"]
    for name in names:
        for place in dict.fromkeys([home(cache_folder), home()]):
            found = stored_path(name, revision, place)
            recover(found)
            if (found / MANIFEST).is_file():
                return found
    return _fetch(
        model, names, revision, token, local_files_only=local_files_only, cache_folder=cache_folder, task=task
    )


def _fetch(
    model: str | Path,
    names: list[str],
    revision: str | None,
    token: str | bool | None,
    *,
    local_files_only: bool,
    cache_folder: str | Path | None,
    task: Task | None,
) -> Path:
    """Download the bundle, or export the model, of the first of these names that the hub has."""
    from embedrt.hub.patience import NoAnswer
    from embedrt.hub.remote import download, find_repo, offline

    name = names[-1]
    command = f"embedrt export {name}" + (f" --revision {revision}" if revision else "")
    others = _other_revisions(names, revision)
    if local_files_only or offline():
        raise ModelNotFoundError(
            f"{_shown(model, revision)} is not in {_places(cache_folder)}{others}, and the network may "
            f"not be used; where it may, run `{command} -o FOLDER` and copy the folder here"
        )
    try:
        repo = find_repo(name, revision, token)
    except ModelNotFoundError as error:
        if name == names[0] or isinstance(error.__cause__, NoAnswer):
            raise ModelNotFoundError(f"{error}{others}") from error
        name = names[0]
        repo = find_repo(name, revision, token)
    target = stored_path(name, revision, cache_folder)
    if MANIFEST in repo.files:
        with staging(target) as fresh:
            download(repo, token, [MANIFEST], fresh)
            download(repo, token, read_manifest(fresh).files, fresh)
            shutil.rmtree(fresh / ".cache", ignore_errors=True)  # metadata of the hub client
            read_bundle(fresh, "always")
            publish(fresh, target)
        return target
    if find_spec("onnx") is None or find_spec("safetensors") is None:
        raise ModelNotFoundError(
            f"{model!r} on the hub is a model, not a bundle; run `pip install 'embedrt[export]'`, then `{command}`"
        )
    exported: Path = exporter().export(name, target, name=name, revision=revision, token=token, task=task)
    return exported


def _shown(model: str | Path, revision: str | None) -> str:
    at = "" if revision is None or str(model).endswith(f"@{revision}") else f" at revision {revision!r}"
    return f"{str(model)!r}{at}"


def _places(cache_folder: str | Path | None) -> str:
    store = f"the local store {home()}"
    return store if home(cache_folder) == home() else f"{home(cache_folder)} or {store}"


def _other_revisions(names: list[str], revision: str | None) -> str:
    """A hint for a model that the store has under other revisions."""
    known = [name for base in names for name in stored_revisions(base)]
    if not known:
        return ""
    remedy = "; leave out the revision to take it" if revision and known[0] in names else ""
    return f" (it has {', '.join(map(repr, known))}{remedy})"


def exporter() -> ModuleType:
    """Import the export package, which the runtime does here only.

    Raises:
        MissingDependencyError: The extra `export` is not installed.
    """
    import embedrt_export

    return embedrt_export
