"""The three ways to a graph, the one that each transformer takes, and the files that it needs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from embedrt.errors import ExportError
from embedrt_export.families import FAMILIES, family_name
from embedrt_export.onnx_backbone import optimum
from embedrt_export.onnx_backbone.read import CANDIDATES, Backbone, data_files, find_backbone, read_backbone
from embedrt_export.options import ExportOptions, Via
from embedrt_export.source.files import check_files
from embedrt_export.source.locate import Located, download
from embedrt_export.source.modules import ModuleSpec
from embedrt_export.source.repo import ModelSpec, transformers


@dataclass(frozen=True)
class Choice:
    """The way that a transformer takes.

    Attributes:
        via: Its name.
        reason: The reason for it, for the log.
        onnx_file: The ONNX file, if the way is "onnx".
    """

    via: Via
    reason: str
    onnx_file: str = ""


@dataclass(frozen=True)
class Decision:
    """A transformer's way to the graph, settled.

    Attributes:
        family: The family's name, or the `model_type` of an unknown architecture.
        choice: The way.
        backbone: The parsed ONNX file, if the way is "onnx".
    """

    family: str
    choice: Choice
    backbone: Backbone | None = None


@dataclass(frozen=True)
class Decisions:
    """Decisions for a whole model.

    Attributes:
        task: The task whose adapter is merged, if any.
        by_path: The decision for each Transformer module, by the module's path.
    """

    task: str | None
    by_path: Mapping[str, Decision]


def decide(spec: ModelSpec, located: Located, options: ExportOptions, token: str | bool | None) -> Decisions:
    """Choose the way of every transformer, and download the weights that it needs.

    Args:
        spec: The model.
        located: Its folder, and the hub repo that it comes from.
        options: Options of the user.
        token: Hub token.

    Raises:
        ExportError: The repo lacks the ONNX file that was asked for, or the file is damaged.
        UnsupportedModelError: The ONNX file has something that is not supported.
        MissingDependencyError: The interpreter that `EMBEDRT_OPTIMUM_PYTHON` names is not there.
    """
    modules = {module.path: module for module in transformers(spec)}
    families = {
        path: family_name(module.transformer.config, module.transformer.architecture)
        for path, module in modules.items()
    }
    choices = {path: choose(options, families[path], _files(located, module)) for path, module in modules.items()}
    backbones: dict[str, Backbone] = {}
    weights = set(located.pending)
    for path, choice in choices.items():
        if choice.via != "onnx":
            continue
        module, prefix = modules[path], _prefix(modules[path])
        download(located, token, {prefix + choice.onnx_file} & located.listed)
        backbones[path] = read_backbone(module.folder, choice.onnx_file)
        weights -= {prefix + file for file in _files(located, module)}
        weights |= {prefix + file for file in data_files(backbones[path])} & located.listed
    if weights:
        download(located, token, weights)
        check_files(located.folder)
    return Decisions(
        options.task, {path: Decision(families[path], choices[path], backbones.get(path)) for path in modules}
    )


def _prefix(module: ModuleSpec) -> str:
    return f"{module.path}/" if module.path else ""


def _files(located: Located, module: ModuleSpec) -> frozenset[str]:
    """Weights and ONNX files of a transformer, as paths below its folder; on the hub they need not be downloaded."""
    if located.repo is None:
        return files_in(module.folder)
    prefix = _prefix(module)
    names = (PurePosixPath(file.removeprefix(prefix)) for file in located.listed if file.startswith(prefix))
    return frozenset(name.as_posix() for name in names if _is_considered(name))


def choose(options: ExportOptions, model_type: str, files: Collection[str]) -> Choice:
    """Choose the way for a transformer.

    Args:
        options: Options of the user.
        model_type: The architecture, as `FAMILIES` names it if it is known.
        files: The files in the transformer's folder, as paths with forward slashes.

    Raises:
        ExportError: The repo lacks the file that was asked for.
        MissingDependencyError: The interpreter that `EMBEDRT_OPTIMUM_PYTHON` names is not there.
    """
    if options.onnx_file is not None:
        if options.onnx_file not in files:
            raise ExportError(f"{options.onnx_file}: no such file in the model folder; {_onnx_files(files)}")
        return Choice("onnx", "the file was named", options.onnx_file)
    backbone = find_backbone(files)
    if options.via == "onnx":
        if backbone is None:
            raise ExportError(f"via onnx: the model folder has no {' and no '.join(CANDIDATES)}; {_onnx_files(files)}")
        return Choice("onnx", "it was asked for", backbone)
    if options.via != "auto":
        return Choice(options.via, "it was asked for")
    return _first_that_fits(model_type, files, backbone)


def _first_that_fits(model_type: str, files: Collection[str], backbone: str | None) -> Choice:
    is_known, has_weights = model_type in FAMILIES, any(name.endswith(".safetensors") for name in files)
    if is_known and (has_weights or backbone is None):
        return Choice("native", f"the architecture {model_type!r} is known")
    if backbone is not None:
        why = "there are no safetensors" if is_known else f"the architecture {model_type!r} is not known"
        return Choice("onnx", f"{why}, and the repo has {backbone}", backbone)
    if has_weights and optimum.interpreter() is not None:
        return Choice("optimum", f"the architecture {model_type!r} is not known, and the repo has no ONNX file")
    return Choice("native", "no other way is open")


def files_in(folder: Path) -> frozenset[str]:
    """Weights and ONNX files in a transformer's folder, as `choose` takes them."""
    paths = (path for depth in ("*", "onnx/*") for path in folder.glob(depth) if path.is_file())
    names = (PurePosixPath(path.relative_to(folder).as_posix()) for path in paths)
    return frozenset(name.as_posix() for name in names if _is_considered(name))


def _is_considered(name: PurePosixPath) -> bool:
    folder = name.parent.as_posix()
    return (folder == "." and name.suffix == ".safetensors") or (folder in {".", "onnx"} and name.suffix == ".onnx")


def _onnx_files(files: Collection[str]) -> str:
    found = sorted(name for name in files if name.endswith(".onnx"))
    return f"ONNX files there: {', '.join(found)}" if found else "there are no ONNX files"
