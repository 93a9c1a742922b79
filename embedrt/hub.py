"""The Hugging Face hub: what a repo has, and its files. `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` are honoured."""

from collections.abc import Iterable
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from embedrt.errors import ModelNotFoundError


@dataclass(frozen=True)
class Repo:
    """One model repo at one commit.

    Attributes:
        id: Such as "sentence-transformers/all-MiniLM-L6-v2".
        commit: The commit that the revision stood for; every file is taken from it.
        files: Paths of its files.
    """

    id: str
    commit: str
    files: tuple[str, ...]


def offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def find(repo_id: str, revision: str | None, token: str | bool | None) -> Repo:
    """Asks the hub for a repo.

    Raises:
        ModelNotFoundError: The hub does not give it: unknown, private, gated or out of reach.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repo_id, revision=revision, token=token)
    except Exception as error:  # besides its own errors it raises those of an HTTP library that changed over time
        at = f" at revision {revision!r}" if revision else ""
        raise ModelNotFoundError(
            f"{repo_id!r}{at} is not in the local store, and the hub does not give it: {error}"
        ) from error
    if info.sha is None:
        raise ModelNotFoundError(f"{repo_id!r}: the hub names no commit for it")
    return Repo(repo_id, info.sha, tuple(file.rfilename for file in info.siblings or ()))


def download(repo: Repo, token: str | bool | None, files: Iterable[str], folder: Path | None = None) -> Path:
    """Downloads files of a repo, with a progress bar.

    Args:
        repo: What `find` gave.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        files: Which files.
        folder: Where to put plain files; None uses the hub's own cache, with links.

    Returns:
        The folder with the files.

    Raises:
        ModelNotFoundError: A file did not arrive whole.
    """
    from huggingface_hub import snapshot_download

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
