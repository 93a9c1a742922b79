"""Export methods "onnx" and "optimum": the encoder taken from an ONNX file, of the repo or made by optimum-onnx."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from embedrt.errors import UnsupportedModelError
from embedrt.types import TOKENS
from embedrt_export.families import FAMILIES, family_name
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.heads.head import Feature
from embedrt_export.layers.inputs import text_inputs
from embedrt_export.onnx_backbone import optimum
from embedrt_export.onnx_backbone.attach import attach
from embedrt_export.onnx_backbone.read import Backbone, read_backbone
from embedrt_export.options import Via
from embedrt_export.routes.decide import Decisions
from embedrt_export.routes.encoder import Encoder, max_seq_length, position_limit
from embedrt_export.routes.modules import ModuleSpec
from embedrt_export.source.adapters import CONFIG as ADAPTER_CONFIG
from embedrt_export.tokenizer import build_tokenizer

_WIDTHS = ("hidden_size", "dim", "d_model", "n_embd")  # names that configs use for the width of a token embedding


def build(graph: GraphBuilder, module: ModuleSpec, decisions: Decisions, scratch: Path) -> Encoder:
    """Attach the backbone of the ONNX file that was chosen to a graph.

    Args:
        graph: The graph.
        module: The Transformer module.
        decisions: The parsed ONNX file.
        scratch: Unused: nothing is written.

    Raises:
        UnsupportedModelError: The backbone has something that is not supported, or needs an adapter.
        ExportError: A part of the backbone is missing or damaged.
    """
    del scratch
    backbone = decisions.by_path[module.path].backbone
    assert backbone is not None  # noqa: S101 - `decide` parses the file of every such module
    return _attached(graph, backbone, module, decisions.adapter, "onnx")


def build_with_optimum(graph: GraphBuilder, module: ModuleSpec, decisions: Decisions, scratch: Path) -> Encoder:
    """Have optimum-onnx export a transformer, and attach the backbone to a graph.

    Args:
        graph: The graph.
        module: The Transformer module.
        decisions: The task, which must be None.
        scratch: A folder for temporary files.

    Raises:
        UnsupportedModelError: The backbone has something that is not supported, or needs an adapter.
        ExportError: The export failed.
        MissingDependencyError: optimum-onnx is not installed.
    """
    _require_no_adapter(module.folder, decisions.adapter, "optimum")
    with TemporaryDirectory(dir=scratch) as made:
        backbone = read_backbone(Path(made), optimum.export_backbone(module.folder, Path(made)))
        return _attached(graph, backbone, module, decisions.adapter, "optimum")


def _require_no_adapter(folder: Path, task: str | None, via: Via) -> None:
    if (folder / ADAPTER_CONFIG).is_file():
        raise UnsupportedModelError(
            f"via {via}: the ONNX graph may or may not contain the adapter of {ADAPTER_CONFIG}; use via='native'"
        )
    if task is not None:
        raise UnsupportedModelError(f"via {via}: task adapters are only merged with via='native'")


def _attached(graph: GraphBuilder, backbone: Backbone, module: ModuleSpec, task: str | None, via: Via) -> Encoder:
    _require_no_adapter(module.folder, task, via)
    settings = module.transformer
    model_type, config = settings.architecture, settings.config
    rows = backbone.rows or _size(config, ("vocab_size",), backbone)
    width = backbone.width or _size(config, _WIDTHS, backbone)
    tokenizer = build_tokenizer(
        module.folder, model_type, rows, do_lower_case=settings.do_lower_case, markers=settings.late.markers
    )
    inputs = text_inputs(graph, token_type_ids=tokenizer.tokenization.token_type_ids)
    attached = attach(graph, backbone, inputs, model_type)
    stated = config.get("max_position_embeddings")
    stated = stated if type(stated) is int else None
    positions = _positions(model_type, config)
    length = max_seq_length(settings.max_seq_length, tokenizer, stated, positions)
    return Encoder(
        architecture=model_type,
        via=via,
        identity={"model_type": model_type},
        features={TOKENS: Feature(attached.tokens, width, per_token=True)},
        states=None if settings.output_hidden_states else [],
        inputs=inputs,
        tokenizer=tokenizer,
        max_seq_length=length,
        position_limit=position_limit(length, stated, positions),
        digests=[attached.digest],
        backbone=backbone,
        pooled=attached.sentence,
    )


def _positions(model_type: str, config: dict[str, Any]) -> int | None:
    """Number of positions of a model, if its family is known."""
    family = FAMILIES.get(family_name(config, model_type))
    if family is None:
        return None
    try:
        return family.positions(family.read_config(config))
    except UnsupportedModelError:  # a config that the family cannot build, which is why the ONNX file is used
        return None


def _size(config: Mapping[str, Any], keys: tuple[str, ...], backbone: Backbone) -> int:
    found = next((config[key] for key in keys if type(config.get(key)) is int and config[key] > 0), None)
    if found is None:
        raise UnsupportedModelError(
            f"{backbone.name}: expected a fixed size in the file, or {' or '.join(keys)} in config.json, found neither"
        )
    return int(found)
