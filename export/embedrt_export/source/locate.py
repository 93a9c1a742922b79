"""The model folder of a SOURCE: a hub id, a local folder, or `package:NAME`."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from embedrt.bundle.manifest import Source
from embedrt.errors import ModelNotFoundError, UnsupportedModelError
from embedrt.hub import remote as hub
from embedrt_export.source.files import MODULES

_PACKAGE = "package:"
# Folders of a hub repo with the same model for other runtimes.
_OTHER_RUNTIMES = {"onnx", "openvino"}
# Read where there is no tokenizer.json, like SentencePiece's *.model files.
_VOCABULARIES = {"vocab.txt", "merges.txt"}


@dataclass(frozen=True)
class Located:
    """A model folder on this machine.

    Attributes:
        folder: The folder.
        source: Where it came from.
        name: The name that the store gives the bundle by default.
        repo: The hub repo, if it comes from there.
        pending: Weights of the repo that are not downloaded yet, because an ONNX file may take their place.
    """

    folder: Path
    source: Source
    name: str
    repo: hub.Repo | None = None
    pending: frozenset[str] = frozenset()

    @property
    def listed(self) -> frozenset[str]:
        """Files of the hub repo; none for a local model."""
        return frozenset(() if self.repo is None else self.repo.files)


def locate(source: str | Path, revision: str | None, token: str | bool | None) -> Located:
    """Find the model folder; of a hub repo, download configs and vocabularies, and weights if there is no choice.

    Args:
        source: As `export` takes it.
        revision: Branch, tag or commit of a hub repo.
        token: Hub token.

    Raises:
        ModelNotFoundError: It is nowhere; the message says what was tried.
        UnsupportedModelError: The hub repo has no model of sentence-transformers or transformers.
        ValueError: A revision was given for something that is not on the hub.
    """
    text = str(source)
    is_package, folder = text.startswith(_PACKAGE), Path(source).expanduser()
    if revision is not None and (is_package or folder.is_dir()):
        raise ValueError(f"revision: {text!r} is not on the hub and has no revisions")
    if is_package:
        return _in_package(text.removeprefix(_PACKAGE))
    if folder.is_dir():
        name = re.sub(r"[^A-Za-z0-9._]+", "-", folder.resolve().name).strip("._-")[:96].rstrip(".-") or "model"
        return Located(folder, Source("folder", name, None), name)
    if isinstance(source, Path) or text.count("/") > 1 or text.startswith((".", "/", "~")) or "\\" in text:
        raise ModelNotFoundError(f"{text!r}: no such folder")
    repo = hub.find(text, revision, token)
    if not {MODULES, "config.json"} & set(repo.files):
        raise UnsupportedModelError(f"{repo.id}: neither {MODULES} nor config.json, so it is no model that can be read")
    return _from_hub(repo, token)


def download(located: Located, token: str | bool | None, files: Collection[str]) -> None:
    """Download files of a hub repo into its folder; of a local model there are none to download."""
    if located.repo is not None and files:
        hub.download(located.repo, token, files)


def _from_hub(repo: hub.Repo, token: str | bool | None) -> Located:
    """Download configs and vocabularies, and weights unless the repo has ONNX files to choose from."""
    wanted = {file for file in repo.files if _is_wanted(PurePosixPath(file), repo.files)}
    has_onnx = any(file.endswith(".onnx") for file in repo.files)
    pending = {file for file in wanted if file.endswith(".safetensors")} if has_onnx else set()
    folder = hub.download(repo, token, sorted(wanted - pending))
    source = Source("hub", repo.id, repo.commit)
    return Located(folder, source, repo.id, repo, frozenset(pending))


def _is_wanted(path: PurePosixPath, files: Collection[str]) -> bool:
    if path.parts[0] in _OTHER_RUNTIMES:
        return False
    if path.suffix == ".safetensors":
        return path.name.startswith(("model", "adapter_model"))
    if path.suffix == ".model" or path.name in _VOCABULARIES:
        return (path.parent / "tokenizer.json").as_posix() not in files
    return path.suffix == ".json"


def _in_package(name: str) -> Located:
    """Find the one model folder in an installed package, without importing the package."""
    spec = find_spec(name) if re.fullmatch(r"[A-Za-z_]\w*", name) else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelNotFoundError(
            f"package {name!r} is not installed here; install it with pip, without what it depends on"
        )
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
