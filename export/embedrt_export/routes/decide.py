"""Choice of the export method for each transformer, and download of the files that it needs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from embedrt.errors import ExportError
from embedrt.types import Task
from embedrt_export.families import FAMILIES, family_name
from embedrt_export.onnx_backbone import optimum
from embedrt_export.onnx_backbone.read import CANDIDATES, Backbone, data_files, find_backbone, read_backbone
from embedrt_export.options import ExportOptions, Via
from embedrt_export.routes.modules import ModuleSpec
from embedrt_export.routes.repo import ModelSpec, transformers
from embedrt_export.source.files import check_files
from embedrt_export.source.locate import Located, download


@dataclass(frozen=True)
class Choice:
    """Export method of a transformer.

    Attributes:
        via: The method.
        reason: The reason for the choice, for the log.
        onnx_file: The ONNX file for the method "onnx".
    """

    via: Via
    reason: str
    onnx_file: str = ""


@dataclass(frozen=True)
class Decision:
    """Decision for one transformer.

    Attributes:
        family: The family's name, or the `model_type` of an unknown architecture.
        choice: The export method.
        backbone: The parsed ONNX file for the method "onnx".
    """

    family: str
    choice: Choice
    backbone: Backbone | None = None


@dataclass(frozen=True)
class Decisions:
    """Decisions for a whole model.

    Attributes:
        adapter: The task whose adapter is merged, if any.
        task: The kind of model.
        by_path: The decision for each Transformer module, by the module's path.
    """

    adapter: str | None
    task: Task
    by_path: Mapping[str, Decision]


def decide(spec: ModelSpec, located: Located, options: ExportOptions, token: str | bool | None) -> Decisions:
    """Choose the export method of every transformer, and download the files that it needs.

    Args:
        spec: The model.
        located: Its folder and hub repo.
        options: Options of the user.
        token: Hub token.

    Raises:
        ExportError: The repo does not have the requested ONNX file, or the file is damaged.
        UnsupportedModelError: Something in the ONNX file is not supported.
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
        options.adapter,
        spec.task,
        {path: Decision(families[path], choices[path], backbones.get(path)) for path in modules},
    )


def _prefix(module: ModuleSpec) -> str:
    return f"{module.path}/" if module.path else ""


def _files(located: Located, module: ModuleSpec) -> frozenset[str]:
    """Weights and ONNX files of a transformer, relative to its folder; on the hub also those not downloaded yet."""
    if located.repo is None:
        return files_in(module.folder)
    prefix = _prefix(module)
    names = (PurePosixPath(file.removeprefix(prefix)) for file in located.listed if file.startswith(prefix))
    return frozenset(name.as_posix() for name in names if _is_considered(name))


def choose(options: ExportOptions, model_type: str, files: Collection[str]) -> Choice:
    """Choose the export method for a transformer.

    Args:
        options: Options of the user.
        model_type: The name in `FAMILIES`, or the `model_type` of an unknown architecture.
        files: The files in the transformer's folder, as paths with forward slashes.

    Raises:
        ExportError: The repo does not have the requested file.
        MissingDependencyError: The interpreter that `EMBEDRT_OPTIMUM_PYTHON` names is not there.
    """
    if options.onnx_file is not None:
        if options.onnx_file not in files:
            raise ExportError(f"{options.onnx_file}: not in the model folder; {_onnx_files(files)}")
        return Choice("onnx", "onnx_file names the file", options.onnx_file)
    backbone = find_backbone(files)
    if options.via == "onnx":
        if backbone is None:
            raise ExportError(f"via onnx: the model folder has no {' and no '.join(CANDIDATES)}; {_onnx_files(files)}")
        return Choice("onnx", "as requested", backbone)
    if options.via != "auto":
        return Choice(options.via, "as requested")
    return _automatic(model_type, files, backbone)


def _automatic(model_type: str, files: Collection[str], backbone: str | None) -> Choice:
    is_known, has_weights = model_type in FAMILIES, any(name.endswith(".safetensors") for name in files)
    if is_known and (has_weights or backbone is None):
        return Choice("native", f"the architecture {model_type!r} is supported")
    if backbone is not None:
        reason = "the repo has no safetensors" if is_known else f"the architecture {model_type!r} is not supported"
        return Choice("onnx", f"{reason}, but the repo has {backbone}", backbone)
    if has_weights and optimum.interpreter() is not None:
        return Choice("optimum", f"the architecture {model_type!r} is not supported, and the repo has no ONNX file")
    return Choice("native", "no other method applies")


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
    return f"its ONNX files: {', '.join(found)}" if found else "it has no ONNX files"
