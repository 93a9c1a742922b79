"""The Hugging Face hub: downloads and uploads. `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are honored."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from embedrt.bundle.manifest import MANIFEST, read_bundle
from embedrt.errors import ModelNotFoundError, UploadError
from embedrt.hub.card import model_card

_CARD = "README.md"
# Remedies by HTTP status.
_REMEDIES: dict[int | None, str] = {
    401: "give a token that may write, by token=, HF_TOKEN or `hf auth login`; ",
    403: "this token may not write there, take another; ",
    409: "exist_ok=True uploads to a repo that exists; ",
}


@dataclass(frozen=True)
class Repo:
    """One model repo at one commit.

    Attributes:
        id: Name, such as "sentence-transformers/all-MiniLM-L6-v2".
        commit: Commit of the revision; every file is taken from it.
        files: Paths of its files.
    """

    id: str
    commit: str
    files: tuple[str, ...]


def offline() -> bool:
    """Return True if `HF_HUB_OFFLINE` forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def find(repo_id: str, revision: str | None, token: str | bool | None) -> Repo:
    """Ask the hub for a repo.

    Raises:
        ModelNotFoundError: The hub does not give it: unknown, private, gated or out of reach.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=_checked(token))
    try:
        info = api.model_info(repo_id, revision=revision)
    except Exception as error:  # besides its own errors it raises those of an HTTP library that changed over time
        at = f" at revision {revision!r}" if revision else ""
        raise ModelNotFoundError(
            f"{repo_id!r}{at} is not in the local store, and the hub does not give it: {error}"
        ) from error
    if info.sha is None:
        raise ModelNotFoundError(f"{repo_id!r}: the hub names no commit for it")
    return Repo(repo_id, info.sha, tuple(file.rfilename for file in info.siblings or ()))


def download(repo: Repo, token: str | bool | None, files: Iterable[str], folder: Path | None = None) -> Path:
    """Download files of a repo, with a progress bar.

    Args:
        repo: The repo, from `find`.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        files: Paths of the files.
        folder: Folder for plain files; None uses the hub's own cache, with links.

    Returns:
        The folder with the files.

    Raises:
        ModelNotFoundError: A file did not arrive whole.
    """
    from huggingface_hub import snapshot_download

    token = _checked(token)
    try:
        path = snapshot_download(
            repo.id,
            revision=repo.commit,
            token=token,
            local_dir=folder,
            allow_patterns=[escape(file) for file in files],
        )
    except Exception as error:
        raise ModelNotFoundError(f"{repo.id!r}: download failed: {error}") from error
    return Path(path)


def upload(
    folder: Path,
    repo_id: str,
    token: str | bool | None = None,
    private: bool | None = None,
    commit_message: str | None = None,
    *,
    exist_ok: bool = False,
    replace_model_card: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    evaluations: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """Uploads a bundle's files and its model card in one commit, to a repo that is made if need be.

    Args:
        folder: The bundle.
        repo_id: Such as "org/model"; without an organization it is the user's own.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        private: Whether a new repo is private; None is as the organization has it.
        commit_message: None has one.
        exist_ok: Whether the repo may exist already. Files that the bundle does not have are left in it.
        replace_model_card: Whether to replace a `README.md` that is there.
        revision: The branch, which is made if need be; None is the main one.
        create_pr: Whether to open a pull request instead, in a repo that exists.
        evaluations: Metrics for the model card.

    Returns:
        The address of the commit or of the pull request.

    Raises:
        BundleError: The bundle is damaged.
        UploadError: The hub did not take it; the message says what to do.
    """
    manifest = read_bundle(folder)
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=_checked(token))
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=exist_ok or create_pr).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        files = [CommitOperationAdd(name, folder / name) for name in (MANIFEST, *manifest.files)]
        if replace_model_card or not api.file_exists(repo_id, _CARD, revision=revision):
            files.append(CommitOperationAdd(_CARD, model_card(manifest, repo_id, evaluations).encode()))
        commit = api.create_commit(
            repo_id,
            files,
            commit_message=commit_message or "Add an embedrt bundle",
            revision=revision,
            create_pr=create_pr,
        )
    except Exception as error:
        remedy = _REMEDIES.get(getattr(getattr(error, "response", None), "status_code", None), "")
        raise UploadError(f"{repo_id!r}: the hub did not take the upload: {remedy}{error}") from error
    return str(commit.pr_url if create_pr else commit.commit_url)


def _checked(token: str | bool | None) -> str | bool | None:
    """A token that a header can hold; the HTTP library quotes others in its errors and in its log."""
    if not isinstance(token, str):
        return token
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise ValueError("token: has characters that no token of the hub has; copy it again")
    return token
