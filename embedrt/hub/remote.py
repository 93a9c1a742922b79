"""The Hugging Face hub: downloads and uploads. Respects `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from embedrt.bundle.manifest import MANIFEST, Bundle
from embedrt.errors import ModelNotFoundError, UploadError
from embedrt.hub.card import model_card

_CARD = "README.md"
# Remedies by HTTP status.
_REMEDIES: dict[int | None, str] = {
    401: "pass a token with write access by token=, HF_TOKEN or `hf auth login`; ",
    403: "pass a token with write access to this repo; ",
    409: "pass exist_ok=True to upload to an existing repo; ",
}


@dataclass(frozen=True)
class Repo:
    """One model repo at one commit.

    Attributes:
        id: Name, such as "sentence-transformers/all-MiniLM-L6-v2".
        commit: The commit of the revision.
        files: Paths of its files.
    """

    id: str
    commit: str
    files: tuple[str, ...]


def offline() -> bool:
    """Return True if `HF_HUB_OFFLINE` forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def find_repo(repo_id: str, revision: str | None, token: str | bool | None) -> Repo:
    """Look up a repo on the hub.

    Raises:
        ModelNotFoundError: The repo is unknown, private or gated, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=_check_token(token))
    try:
        info = api.model_info(repo_id, revision=revision)
    except Exception as error:  # the client also raises errors of its HTTP library, which depends on its version
        at = f" at revision {revision!r}" if revision else ""
        raise ModelNotFoundError(
            f"{repo_id!r}{at} is not in the local store, and the hub does not provide it: {error}"
        ) from error
    if info.sha is None:
        raise ModelNotFoundError(f"{repo_id!r}: expected a commit from the hub, got none")
    return Repo(repo_id, info.sha, tuple(file.rfilename for file in info.siblings or ()))


def download(repo: Repo, token: str | bool | None, files: Iterable[str], folder: Path | None = None) -> Path:
    """Download files of a repo, with a progress bar.

    Args:
        repo: The repo, from `find_repo`.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        files: Paths of the files.
        folder: Folder for plain files; None uses the hub's own cache, with links.

    Returns:
        The folder with the files.

    Raises:
        ModelNotFoundError: A download failed.
    """
    from huggingface_hub import snapshot_download

    token = _check_token(token)
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
    bundle: Bundle,
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
    """Upload a bundle's files and model card in one commit; the repo is created if needed.

    Args:
        bundle: The open bundle.
        repo_id: Hub id, such as "org/model"; without an organization it is the user's own.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        private: True for a private new repo; None takes the default of the organization.
        commit_message: The commit message; None takes a default one.
        exist_ok: True to upload to an existing repo; its other files are kept.
        replace_model_card: True to replace an existing `README.md`.
        revision: The branch, created if needed; None is the main branch.
        create_pr: True to open a pull request in an existing repo instead.
        evaluations: Metrics for the model card.

    Returns:
        The URL of the commit or pull request.

    Raises:
        BundleError: The bundle is damaged.
        UploadError: The hub rejected the upload; the message has the remedy.
    """
    manifest, folder = bundle.manifest, bundle.files.root
    bundle.files.require_unchanged()
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=_check_token(token))
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
        raise UploadError(f"{repo_id!r}: the hub rejected the upload: {remedy}{error}") from error
    return str(commit.pr_url if create_pr else commit.commit_url)


def _check_token(token: str | bool | None) -> str | bool | None:
    """Validate a token for use in a header; the HTTP library quotes an invalid one in its errors and log."""
    if not isinstance(token, str):
        return token
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise ValueError("token: expected printable ASCII; copy the token again")
    return token
