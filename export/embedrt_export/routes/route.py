"""One route: a chain of modules built as one graph, with its tokenizer and its entry in the manifest."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx

from embedrt.bundle.manifest import FLOAT32, KIND_OF_TASK, NAME_OF_KIND, Module, Output, Route, Template, Variant
from embedrt.errors import ExportError, UnsupportedModelError
from embedrt.types import MULTI_VECTOR, SENTENCE, TOKENS, Task
from embedrt_export.families import FAMILIES
from embedrt_export.graph.builder import GraphBuilder, Layout
from embedrt_export.graph.data_file import DataFile
from embedrt_export.graph.early_rows import pick_early
from embedrt_export.heads import HEADS
from embedrt_export.heads.head import Base, Feature, HeadInputs, Masks
from embedrt_export.heads.pooling import Pooling
from embedrt_export.onnx_backbone.attach import Sample, require_agreement, require_runs
from embedrt_export.options import Via
from embedrt_export.routes import native, onnx_file, sparse_static, static
from embedrt_export.routes.decide import Decisions
from embedrt_export.routes.encoder import Encoder
from embedrt_export.routes.layout import DATA, RouteFiles, route_files
from embedrt_export.routes.modules import TRANSFORMER, ModuleSpec, Transformer
from embedrt_export.routes.scoring import template_of
from embedrt_export.routes.sparse_static import SparseStaticEmbedding
from embedrt_export.tokenizer import BuiltTokenizer

logger = logging.getLogger("embedrt.export")

LAST_HIDDEN_STATE = "last_hidden_state"
"""The token embeddings of the encoder, an output for other tools, which expect one of this name."""
_KIND_OF_NAME = {name: kind for kind, name in NAME_OF_KIND.items()}
# Messages for chains that do not make the output of the task.
_MISSING: dict[Task, str] = {
    "embed": "modules.json: no Pooling module: the model returns token embeddings, but no sentence embedding",
    "score": "modules.json: no module makes scores",
    "sparse": "modules.json: no SpladePooling module: the model makes no sparse embedding",
    "multi-vector": "modules.json: no module makes one vector for each token",
}
_LONG = 512  # number of tokens from which on sums over them are computed in blocks

METHODS: dict[Via, Callable[[GraphBuilder, ModuleSpec, Decisions, Path], Encoder]] = {
    "native": native.build,
    "onnx": onnx_file.build,
    "optimum": onnx_file.build_with_optimum,
}
"""Export methods; `decide` chooses one for each Transformer module."""


@dataclass(frozen=True)
class BuiltRoute:
    """A route whose files are written.

    Attributes:
        record: Its entry in the manifest, with the float32 graph as its only variant and without a proof.
        dim: Width of its vectors.
        identity: Everything that determines its vectors, for the fingerprint.
        tokenizer: Its tokenizer.
    """

    record: Route
    dim: int
    identity: dict[str, Any]
    tokenizer: BuiltTokenizer


@dataclass(frozen=True)
class DraftGraph:
    """A draft of a route's graph, for dtypes that are narrower than float32.

    Attributes:
        file: The graph.
        layout: Its layout.
        padding_id: See `Packing` in the manifest.
    """

    file: Path
    layout: Layout
    padding_id: int | None


@dataclass(frozen=True)
class _Chain:
    """A chain of modules in a graph.

    Attributes:
        encoder: The first module.
        features: Features after the last module, by name.
        sentences: The sentence embedding after each head, by the head's name in messages.
        digests: SHA-256 of the weights of all modules.
        pooling_mask: True if the graph has a mask for the pooling alone.
    """

    encoder: Encoder
    features: dict[str, Feature]
    sentences: dict[str, str]
    digests: list[str]
    pooling_mask: bool


def build_route(
    folder: Path, data: DataFile, name: str, chain: tuple[ModuleSpec, ...], decisions: Decisions
) -> BuiltRoute:
    """Write graph and tokenizer of a route into a bundle.

    Args:
        folder: The bundle, with the folder `onnx`.
        data: File for the weights.
        name: The route's name.
        chain: Its modules.
        decisions: The export method of the transformer, the adapter, and the task.

    Raises:
        UnsupportedModelError: A module needs something that embedrt does not support.
        ExportError: A file is missing or damaged, or modules do not fit each other.
    """
    graph = GraphBuilder(data)
    built = _add_modules(graph, chain, decisions, folder)
    outputs = _declare_outputs(graph, built, decisions.task)
    files, tokenizer = route_files(name, decisions.task), built.encoder.tokenizer
    (folder / files.tokenizer).parent.mkdir(exist_ok=True)
    (folder / files.tokenizer).write_bytes(tokenizer.definition.encode())
    _save(graph, folder / files.graph, built)
    if decisions.task == "score" and built.encoder.backbone is None:
        _pick_early(folder / files.graph)
    modules = tuple(Module(module.kind, _recorded_settings(module, decisions.adapter)) for module in chain)
    identity = {
        "architecture": built.encoder.identity,
        "weights": hashlib.sha256(json.dumps(built.digests).encode()).hexdigest(),
        "tokenizer": hashlib.sha256(tokenizer.definition.encode()).hexdigest(),
        "modules": [dataclasses.asdict(module) for module in modules],
        "max_seq_length": built.encoder.max_seq_length,
    }
    template = None
    if decisions.task == "score" and isinstance(chain[0].settings, Transformer):
        template = template_of(chain[0], tokenizer)
    if template is not None:
        identity["template"] = dataclasses.asdict(template)
    record = _record(built, files, modules, outputs, template, is_portable=graph.is_portable)
    return BuiltRoute(record, built.features[_output_of(decisions.task)].width, identity, tokenizer)


def build_draft(
    file: Path, data: DataFile, chain: tuple[ModuleSpec, ...], decisions: Decisions, layout: Layout
) -> DraftGraph:
    """Write a draft of a route's graph.

    Args:
        file: The file to write.
        data: File for the float32 weights, beside it.
        chain: The modules of the route.
        decisions: The export method of the transformer, the adapter, and the task.
        layout: The layout of the graph.
    """
    graph = GraphBuilder(data, layout)
    built = _add_modules(graph, chain, decisions, file.parent)
    for name, feature in _offered(built, decisions.task).items():
        # Only packed graphs have an engine that takes numbers which numpy does not have.
        as_float = feature.per_token and not graph.is_packed
        value = graph.to_float(feature.value) if as_float else feature.value
        graph.output(name, value, [*_axes(graph, feature), feature.width])
    graph.save_draft(file)
    return DraftGraph(file, layout, graph.padding_id)


def _add_modules(graph: GraphBuilder, chain: tuple[ModuleSpec, ...], decisions: Decisions, scratch: Path) -> _Chain:
    """Add all modules of a chain to a graph."""
    first, *rest = chain
    encoder = _encoder(graph, first, decisions, scratch)
    skips_prompt = any(isinstance(module.settings, Pooling) and not module.settings.include_prompt for module in rest)
    pooling_mask = skips_prompt and not graph.is_packed  # whose weights tell which tokens to pool
    mask = encoder.inputs.attention_mask
    is_long = encoder.max_seq_length is None or encoder.max_seq_length > _LONG
    masks = Masks(mask, graph.input("pooling_mask") if pooling_mask else mask, is_long)
    features, digests = dict(encoder.features), list(encoder.digests)
    sentences: dict[str, str] = {}
    base = _base(first, encoder, decisions)
    for module in rest:
        inputs = HeadInputs(
            graph,
            kind=module.kind,
            path=module.path,
            folder=module.folder,
            features=features,
            states=encoder.states,
            shape=encoder.inputs.shape,
            masks=masks,
            base=base,
        )
        outputs = HEADS[module.kind].add(inputs, module.settings)
        features = {**features, **outputs.features}
        digests += [] if outputs.digest is None else [outputs.digest]
        if SENTENCE in features:
            sentences[inputs.where] = features[SENTENCE].value
    if decisions.task == "multi-vector" and TOKENS in features:
        features[MULTI_VECTOR] = features[TOKENS]
    if _output_of(decisions.task) not in features:
        raise UnsupportedModelError(_MISSING[decisions.task])
    return _Chain(encoder, features, sentences, digests, pooling_mask)


def _output_of(task: Task) -> str:
    """The name of the output that a model of a task must have."""
    return NAME_OF_KIND[KIND_OF_TASK[task]]


def _base(module: ModuleSpec, encoder: Encoder, decisions: Decisions) -> Base | None:
    """The facts about the transformer that heads may need."""
    if not isinstance(module.settings, Transformer):
        return None
    settings, name = module.settings, decisions.by_path[module.path].family
    family = FAMILIES.get(name)
    return Base(
        family=name,
        config=settings.config,
        folder=settings.base,
        prefixes=() if family is None else family.prefixes,
        renames=() if family is None else family.renames,
        inputs=encoder.inputs,
        tokenizer=encoder.tokenizer,
    )


def _encoder(graph: GraphBuilder, module: ModuleSpec, decisions: Decisions, scratch: Path) -> Encoder:
    if isinstance(module.settings, Transformer):
        choice = decisions.by_path[module.path].choice
        if graph.draft is None:
            logger.info("via %s: %s", choice.via, choice.reason)
        return METHODS[choice.via](graph, module, decisions, scratch)
    if decisions.adapter is not None:
        raise ExportError(f"adapter {decisions.adapter!r}: the model has no task adapters; leave the adapter out")
    if isinstance(module.settings, SparseStaticEmbedding):
        return sparse_static.build(graph, module.folder, module.settings)
    return static.build(graph, module.folder)


def _declare_outputs(graph: GraphBuilder, built: _Chain, task: Task) -> dict[str, Feature]:
    """Declare the outputs of a graph; returns those that the runtime offers, by name."""
    if task == "embed" and TOKENS in built.encoder.features:
        states = built.encoder.features[TOKENS]
        graph.output(LAST_HIDDEN_STATE, states.value, ["batch", "sequence", states.width])
    outputs = _offered(built, task)
    for name, feature in outputs.items():
        graph.output(name, feature.value, [*_axes(graph, feature), feature.width])
    return outputs


def _offered(built: _Chain, task: Task) -> dict[str, Feature]:
    """The features that the runtime offers, by name: all of a model that embeds, else the one of the task."""
    names = NAME_OF_KIND.values() if task == "embed" else (_output_of(task),)
    return {name: built.features[name] for name in names if name in built.features}


def _axes(graph: GraphBuilder, feature: Feature) -> list[str | int]:
    """Axes of a feature before the last."""
    by_token: list[str | int] = ["tokens"] if graph.is_packed else ["batch", "sequence"]
    return by_token if feature.per_token else ["batch"]


def _save(graph: GraphBuilder, path: Path, built: _Chain) -> None:
    """Write the graph. Run it if it has an ONNX backbone, and compare the backbone's own sentence embeddings."""
    encoder, backbone = built.encoder, built.encoder.backbone
    if backbone is None:
        graph.save(path)
        return
    try:
        graph.save(path)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{backbone.name}: the graph is not valid: {error}") from error
    sample = Sample(encoder.tokenizer.tokenization.embedding_rows, encoder.max_seq_length or 64)
    require_runs(path, backbone, sample)
    if encoder.pooled is not None:
        agreed = require_agreement(graph, backbone, encoder.pooled, built.sentences, path.parent, sample)
        logger.info("%s: its own sentence embeddings agree with those after %s", backbone.name, agreed)


def _pick_early(path: Path) -> None:
    """Compute the last layer of a graph that returns nothing for each token only for the tokens that are pooled."""
    model = onnx.load(path, load_external_data=False)
    if pick_early(model):
        onnx.save_model(model, path)
        onnx.checker.check_model(path, full_check=True)


def _recorded_settings(module: ModuleSpec, adapter: str | None) -> dict[str, Any]:
    """Settings that change the vectors; the manifest has architecture and maximum length elsewhere."""
    left_out = {"architecture", "base", "config", "max_seq_length", "transformer_task", "late"}
    left_out |= {"messages", "message_form", "template_variables"}  # which the template shows
    settings = {key: value for key, value in dataclasses.asdict(module.settings).items() if key not in left_out}
    if adapter is not None and module.kind == TRANSFORMER:
        settings["task"] = adapter
    return json.loads(json.dumps(settings))  # type: ignore[no-any-return]


def _record(
    built: _Chain,
    files: RouteFiles,
    modules: tuple[Module, ...],
    outputs: dict[str, Feature],
    template: Template | None,
    *,
    is_portable: bool,
) -> Route:
    operators: Literal["portable", "onnxruntime"] = "portable" if is_portable else "onnxruntime"
    encoder = built.encoder
    return Route(
        architecture=encoder.architecture,
        via=encoder.via,
        modules=modules,
        max_seq_length=encoder.max_seq_length,
        position_limit=encoder.position_limit,
        tokenizer=files.tokenizer,
        tokenization=dataclasses.replace(
            encoder.tokenizer.tokenization, pooling_mask=built.pooling_mask, template=template
        ),
        variants=(Variant(FLOAT32, files.graph, DATA, operators, devices=(), layout="padded", proof=None),),
        outputs={
            name: Output(_KIND_OF_NAME[name], feature.width, feature.normalized) for name, feature in outputs.items()
        },
        parity_texts=files.parity_texts,
        parity_vectors=files.parity_vectors,
        parity_max_seq_length=built.encoder.max_seq_length,
    )
