"""SOURCE to a model folder: a hub id, a local folder, or `package:NAME`."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from embedrt.bundle.manifest import Source
from embedrt.errors import ModelNotFoundError, UnsupportedModelError
from embedrt.hub import remote as hub
from embedrt_export.families import family_name
from embedrt_export.onnx_backbone.read import data_files
from embedrt_export.source.decide import Wish, choose
from embedrt_export.source.repo import MODULES, read_repo, transformers

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
    """

    folder: Path
    source: Source
    name: str


def locate(source: str | Path, revision: str | None, token: str | bool | None, wish: Wish) -> Located:
    """Finds the model folder, downloading it if SOURCE is a hub id.

    Args:
        source: As `export` takes it.
        revision: Branch, tag or commit of a hub repo.
        token: Hub token.
        wish: Which way to the graph is asked for, on which it depends what is downloaded.

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
    return Located(_download(repo, token, wish), Source("hub", repo.id, repo.commit), repo.id)


def _download(repo: hub.Repo, token: str | bool | None, wish: Wish) -> Path:
    """Downloads configs, vocabularies, and weights or an ONNX body; no other copies for other runtimes."""
    wanted = [file for file in repo.files if _is_wanted(PurePosixPath(file), repo.files)]
    if wish.via == "native" or not any(file.endswith(".onnx") for file in repo.files):
        return hub.download(repo, token, wanted)
    weights = {file for file in wanted if file.endswith(".safetensors")}
    folder = hub.download(repo, token, [file for file in wanted if file not in weights])
    for part, settings in transformers(read_repo(folder, is_local=False, token=token)):
        prefix = f"{part.path}/" if part.path else ""
        files = {file.removeprefix(prefix) for file in repo.files if file.startswith(prefix)}
        way = choose(wish, family_name(settings.config, settings.architecture), files)
        if way.via == "onnx":
            weights -= {prefix + file for file in files if "/" not in file}
            hub.download(repo, token, [prefix + way.onnx_file])
            weights |= {prefix + file for file in data_files(part.folder, way.onnx_file) if file in files}
    return hub.download(repo, token, weights) if weights else folder


def _is_wanted(path: PurePosixPath, files: Collection[str]) -> bool:
    if path.parts[0] in _OTHER_RUNTIMES:
        return False
    if path.suffix == ".safetensors":
        return path.name.startswith(("model", "adapter_model"))
    if path.suffix == ".model" or path.name in _VOCABULARIES:
        return (path.parent / "tokenizer.json").as_posix() not in files
    return path.suffix == ".json"


def _in_package(name: str) -> Located:
    """Finds the one model folder in an installed package, without importing the package."""
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
