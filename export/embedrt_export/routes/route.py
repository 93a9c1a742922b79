"""One route: a chain of modules to a graph, with its tokenizer and what the manifest says of it."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import onnx

from embedrt.bundle.manifest import DEFAULT_ROUTE, FLOAT32, Module, Output, Route, Variant
from embedrt.errors import ExportError, UnsupportedModelError
from embedrt_export.families import FAMILIES, choose_task
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.graph.data_file import DataFile
from embedrt_export.heads.dense import DENSE_ACTIVATIONS
from embedrt_export.heads.layer_pooling import weighted_sum
from embedrt_export.heads.normalize import normalize
from embedrt_export.heads.pooling import Masks, pool
from embedrt_export.layers.inputs import flatten, text_inputs, unflatten
from embedrt_export.layers.linear import Linear, project
from embedrt_export.layers.scope import Scope
from embedrt_export.onnx_backbone import optimum
from embedrt_export.onnx_backbone.attach import require_agreement, require_runs
from embedrt_export.onnx_backbone.read import read_backbone
from embedrt_export.routes.decide import Decision, Decisions
from embedrt_export.routes.first_module import (
    SENTENCE,
    TOKENS,
    Feature,
    Start,
    body_start,
    max_seq_length,
    position_limit,
)
from embedrt_export.source import modules
from embedrt_export.source.adapters import CONFIG as ADAPTER_CONFIG
from embedrt_export.source.adapters import Adapter
from embedrt_export.source.modules import STATIC, TRANSFORMER, ModuleSpec
from embedrt_export.source.unsupported import check_supported
from embedrt_export.source.weights import Weights, quote
from embedrt_export.tokenizer import build_tokenizer

logger = logging.getLogger("embedrt.export")

DATA = "onnx/model.onnx_data"
LAST_HIDDEN_STATE = "last_hidden_state"
"""The backbone's token states, an output for other tools, which expect one of this name."""
_LONG = 512  # from how many tokens on a sum over them is taken by blocks
_LAYER_NORM_EPSILON = 1e-5  # torch's default, which LayerNorm modules have


@dataclass(frozen=True)
class BuiltRoute:
    """A route whose files are written.

    Attributes:
        record: What the manifest says of it, with the float32 graph as its only variant and without a proof.
        dim: Width of its vectors.
        identity: All that decides its vectors, for the fingerprint.
    """

    record: Route
    dim: int
    identity: dict[str, Any]


def build_route(
    folder: Path, data: DataFile, name: str, chain: tuple[ModuleSpec, ...], decisions: Decisions
) -> BuiltRoute:
    """Writes graph and tokenizer of a route into a bundle.

    Args:
        folder: The bundle, with the folder `onnx`.
        data: Takes the weights.
        name: The route's name.
        chain: Its modules.
        decisions: The way to the transformer's graph, and the task.

    Raises:
        UnsupportedModelError: A module asks for something that embedrt does not know.
        ExportError: A file is missing or damaged, or modules do not fit each other.
    """
    graph = GraphBuilder(data)
    first, *rest = chain
    match first.settings:
        case modules.Transformer() as settings:
            start = _transformer(graph, first.folder, settings, decisions.by_path[first.path], decisions.task, folder)
        case _ if decisions.task is not None:
            raise ExportError(f"task {decisions.task!r}: the model has no adapters for tasks; leave the task out")
        case _:
            start = _static(graph, first.folder)
    pooling_mask = any(isinstance(part.settings, modules.Pooling) and not part.settings.include_prompt for part in rest)
    mask = start.inputs.attention_mask
    is_long = start.max_seq_length is None or start.max_seq_length > _LONG
    masks = Masks(mask, graph.input("pooling_mask") if pooling_mask else mask, is_long)
    features, digests = dict(start.features), list(start.digests)
    stages: dict[str, str] = {}
    for part in rest:
        _BUILDERS[part.kind](_Step(graph, part, part.settings, features, start, masks, digests))
        if SENTENCE in features:
            stages[f"{part.kind} in {part.path!r}"] = features[SENTENCE].value
    if SENTENCE not in features:
        raise UnsupportedModelError(
            "modules.json: no Pooling module: this model gives token embeddings, not sentence embeddings"
        )
    sentence = features[SENTENCE]
    if TOKENS in start.features:
        states = start.features[TOKENS]
        graph.output(LAST_HIDDEN_STATE, states.value, ["batch", "sequence", states.width])
    outputs = {name: features[name] for name in (TOKENS, SENTENCE) if name in features}
    if TOKENS in features:
        tokens = features[TOKENS]
        graph.output(TOKENS, tokens.value, ["batch", "sequence", tokens.width])
    graph.output(SENTENCE, sentence.value, ["batch", sentence.width])

    at = _Files.of(name)
    (folder / at.tokenizer).parent.mkdir(exist_ok=True)
    (folder / at.tokenizer).write_bytes(start.tokenizer.definition.encode())
    _save(graph, folder / at.graph, start, stages)
    operators: Literal["portable", "onnxruntime"] = "portable" if graph.is_portable else "onnxruntime"
    described = tuple(Module(part.kind, _described(part, decisions.task)) for part in chain)
    return BuiltRoute(
        Route(
            architecture=start.architecture,
            via=start.via,
            modules=described,
            max_seq_length=start.max_seq_length,
            position_limit=start.position_limit,
            tokenizer=at.tokenizer,
            tokenization=dataclasses.replace(start.tokenizer.tokenization, pooling_mask=pooling_mask),
            variants=(Variant(FLOAT32, at.graph, DATA, operators, devices=(), layout="padded", proof=None),),
            outputs={
                name: Output("tokens" if feature.per_token else "sentence", feature.width, feature.normalized)
                for name, feature in outputs.items()
            },
            parity_texts=at.parity_texts,
            parity_vectors=at.parity_vectors,
            parity_max_seq_length=start.max_seq_length,
        ),
        sentence.width,
        {
            "architecture": start.identity,
            "weights": hashlib.sha256(json.dumps(digests).encode()).hexdigest(),
            "tokenizer": hashlib.sha256(start.tokenizer.definition.encode()).hexdigest(),
            "modules": [dataclasses.asdict(module) for module in described],
            "max_seq_length": start.max_seq_length,
        },
    )


def _save(graph: GraphBuilder, path: Path, start: Start, stages: dict[str, str]) -> None:
    """Writes the graph; what a body has in it is tried out, and its own vectors are compared with ours."""
    if start.body is None:
        graph.save(path)
        return
    sizes = start.tokenizer.tokenization.embedding_rows, start.max_seq_length or 64
    try:
        graph.save(path)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{start.body.name}: the graph is not valid: {error}") from error
    require_runs(path, start.body, *sizes)
    if start.pooled is not None:
        agreed = require_agreement(graph, start.body, start.pooled, stages, path.parent, *sizes)
        logger.info("%s pools by itself; the vectors agree after %s", start.body.name, agreed)


@dataclass(frozen=True)
class _Files:
    """Where the files of a route lie in a bundle."""

    graph: str
    tokenizer: str
    parity_texts: str
    parity_vectors: str

    @classmethod
    def of(cls, route: str) -> "_Files":
        if route == DEFAULT_ROUTE:
            return cls(
                graph="onnx/model.onnx",
                tokenizer="tokenizer.json",
                parity_texts="parity/texts.json",
                parity_vectors="parity/vectors.npy",
            )
        return cls(
            graph=f"onnx/{route}.onnx",
            tokenizer=f"tokenizers/{route}.json",
            parity_texts=f"parity/{route}.texts.json",
            parity_vectors=f"parity/{route}.npy",
        )


def _described(part: ModuleSpec, task: str | None) -> dict[str, Any]:
    """The settings that change the numbers; architecture and length have places of their own."""
    left_out = {"architecture", "base", "config", "max_seq_length"}
    settings = {key: value for key, value in dataclasses.asdict(part.settings).items() if key not in left_out}
    if task is not None and part.kind == TRANSFORMER:
        settings["task"] = task
    return json.loads(json.dumps(settings))  # type: ignore[no-any-return]


def _transformer(
    graph: GraphBuilder,
    folder: Path,
    settings: modules.Transformer,
    decision: Decision,
    task: str | None,
    scratch: Path,
) -> Start:
    via = decision.choice.via
    logger.info("via %s: %s", via, decision.choice.reason)
    if via == "native":
        return _native(graph, folder, settings, decision.family, task)
    if (folder / ADAPTER_CONFIG).is_file():
        raise UnsupportedModelError(f"via {via}: whether {ADAPTER_CONFIG} is merged in there is not known; use native")
    if task is not None:
        raise UnsupportedModelError(f"via {via}: adapters for tasks are merged only via native")
    if decision.backbone is not None:
        return body_start(graph, decision.backbone, folder, settings, via)
    with TemporaryDirectory(dir=scratch) as made:
        backbone = read_backbone(Path(made), optimum.export_backbone(folder, Path(made)))
        return body_start(graph, backbone, folder, settings, via)


def _native(
    graph: GraphBuilder, folder: Path, settings: modules.Transformer, model_type: str, task: str | None
) -> Start:
    check_supported({**settings.config, "model_type": model_type}, FAMILIES)
    family = FAMILIES[model_type]
    config = choose_task(family, family.read_config(settings.config), task)
    tokenizer = build_tokenizer(folder, model_type, config.vocab_size, do_lower_case=settings.do_lower_case)
    inputs = text_inputs(graph, token_type_ids=tokenizer.tokenization.token_type_ids)
    adapter = Adapter(folder, family.prefixes) if (folder / ADAPTER_CONFIG).is_file() else None
    with Weights(settings.base, family.prefixes, family.renames, adapter) as weights:
        states = family.build(Scope(graph, weights, inputs), config)
        if unread := weights.unread(family.backbone, family.ignored):
            shown = ", ".join(map(quote, unread[:5]))
            raise ExportError(
                f"weights: config.json describes a smaller model, it has no place for {shown}"
                + (f" and {len(unread) - 5} more" if len(unread) > 5 else "")
            )
        digest = weights.digest()
    hidden = config.hidden_size
    stated, positions = getattr(config, "max_position_embeddings", None), family.positions(config)
    length = max_seq_length(settings.max_seq_length, tokenizer, stated, positions)
    return Start(
        architecture=model_type,
        via="native",
        identity={"model_type": model_type, **_unusual(config)},
        features={TOKENS: Feature(unflatten(graph, states[-1], inputs.shape, hidden), hidden, per_token=True)},
        states=states if settings.output_hidden_states else [],
        inputs=inputs,
        tokenizer=tokenizer,
        max_seq_length=length,
        position_limit=position_limit(length, stated, positions),
        digests=[digest],
    )


def _unusual(config: Any) -> dict[str, Any]:
    """What differs from the architecture's defaults; so a key that is read only later changes no fingerprint."""
    values = dataclasses.asdict(config)
    return {f.name: values[f.name] for f in dataclasses.fields(config) if getattr(config, f.name) != f.default}


def _static(graph: GraphBuilder, folder: Path) -> Start:
    """A table of token embeddings; model2vec stores it as rows, with a row and a weight for every token."""
    with Weights(folder) as weights:
        name = "embedding.weight" if "embedding.weight" in weights else "embeddings"
        rows, width = weights.matrix_shape(name)
        mapping = weights.integers("mapping") if name == "embeddings" and "mapping" in weights else None
        scale = weights("weights", *weights.shape("weights")) if name == "embeddings" and "weights" in weights else None
        if mapping is not None and (mapping.size == 0 or mapping.min() < 0 or mapping.max() >= rows):
            raise ExportError(f"weights: tensor 'mapping' names rows that {name!r} with its {rows} rows does not have")
        ids = rows if mapping is None else len(mapping)
        if scale is not None and scale.shape != (ids,):
            raise ExportError(f"weights: tensor 'weights' has shape {scale.shape}, expected ({ids},)")
        tokenizer = build_tokenizer(folder, STATIC, ids, do_lower_case=False, special_tokens=False)
        inputs = text_inputs(graph, token_type_ids=False)
        table = graph.weight(name, weights(name, rows, width))
        digest = weights.digest()
    row = inputs.input_ids
    if mapping is not None:
        row = graph.op("Gather", graph.weight("mapping", mapping), row)
    tokens = graph.op("Gather", table, row)
    if scale is not None:
        weight = graph.op("Gather", graph.weight("weights", scale), inputs.input_ids)
        tokens = graph.op("Mul", tokens, graph.op("Unsqueeze", weight, graph.ints(2)))
    mean = pool(graph, ("mean",), tokens, Masks(inputs.attention_mask, inputs.attention_mask, long=True))
    digests = [digest] if mapping is None else [digest, hashlib.sha256(mapping.tobytes()).hexdigest()]
    return Start(
        architecture="static",
        via="native",
        identity={"model_type": "static"},
        features={SENTENCE: Feature(mean, width, per_token=False)},
        states=[],
        inputs=inputs,
        tokenizer=tokenizer,
        max_seq_length=tokenizer.model_max_length,
        position_limit=None,
        digests=digests,
    )


@dataclass(frozen=True)
class _Step:
    """What a module of the chain works on."""

    graph: GraphBuilder
    part: ModuleSpec
    settings: Any
    features: dict[str, Feature]
    start: Start
    masks: Masks
    digests: list[str]

    def feature(self, name: str) -> Feature:
        if name not in self.features:
            raise ExportError(
                f"{self.where}: it reads {name!r}, but the modules before it make only {', '.join(self.features)}"
            )
        return self.features[name]

    @property
    def where(self) -> str:
        return f"{self.part.kind} in {self.part.path!r}"

    def require_width(self, stated: int, found: int) -> None:
        if stated != found:
            raise ExportError(f"{self.where}: config.json says {stated} dimensions, but it gets {found}")


def _pooling(step: _Step) -> None:
    settings, tokens = step.settings, step.feature(TOKENS)
    if settings.embedding_dimension is not None:
        step.require_width(settings.embedding_dimension, tokens.width)
    pooled = pool(step.graph, settings.pooling_mode, tokens.value, step.masks)
    step.features[SENTENCE] = Feature(pooled, tokens.width * len(settings.pooling_mode), per_token=False)


def _dense(step: _Step) -> None:
    settings, x = step.settings, step.feature(step.settings.module_input_name)
    step.require_width(settings.in_features, x.width)
    graph, sizes = step.graph, (settings.out_features, settings.in_features)
    flat = flatten(graph, x.value, x.width) if x.per_token else x.value
    with Weights(step.part.folder) as weights:
        bias = weights("linear.bias", settings.out_features) if settings.bias else None
        y = project(graph, flat, f"{step.part.path}.linear", Linear(weights("linear.weight", *sizes), bias))
        y = DENSE_ACTIVATIONS[settings.activation_function](graph, y)
        if settings.use_residual:
            if settings.in_features != settings.out_features:
                flat = project(graph, flat, f"{step.part.path}.residual", Linear(weights("residual.weight", *sizes)))
            y = graph.op("Add", y, flat)
        step.digests.append(weights.digest())
    if x.per_token:
        y = unflatten(graph, y, step.start.inputs.shape, settings.out_features)
    name = settings.module_output_name or settings.module_input_name
    step.features[name] = Feature(y, settings.out_features, x.per_token)


def _layer_norm(step: _Step) -> None:
    x = step.feature(SENTENCE)
    step.require_width(step.settings.dimension, x.width)
    with Weights(step.part.folder) as weights:
        parameters = [
            step.graph.weight(f"{step.part.path}.norm.{name}", weights(f"norm.{name}", x.width))
            for name in ("weight", "bias")
        ]
        y = step.graph.op("LayerNormalization", x.value, *parameters, axis=-1, epsilon=_LAYER_NORM_EPSILON)
        step.digests.append(weights.digest())
    step.features[SENTENCE] = Feature(y, x.width, per_token=False)


def _normalize(step: _Step) -> None:
    x = step.feature(step.settings.module_input_name)
    name = step.settings.module_output_name or step.settings.module_input_name
    step.features[name] = dataclasses.replace(x, value=normalize(step.graph, x.value), normalized=True)


def _weighted_layer_pooling(step: _Step) -> None:
    tokens = step.feature(TOKENS)
    if step.start.states is None:
        raise UnsupportedModelError(f"{step.where}: it needs the states of all layers; an ONNX body has only the last")
    if not step.start.states:
        # sentence-transformers leaves the tokens as they are where the config does not ask for the states.
        logger.warning("%s: config.json has no output_hidden_states, so it does nothing", step.where)
        return
    step.require_width(step.settings.embedding_dimension, tokens.width)
    states = step.start.states[step.settings.layer_start :]
    with Weights(step.part.folder) as weights:
        parts = weights("layer_weights", len(states)).astype(float)
        step.digests.append(weights.digest())
    mean = weighted_sum(step.graph, states, (parts / parts.sum()).tolist())
    value = unflatten(step.graph, mean, step.start.inputs.shape, tokens.width)
    step.features[TOKENS] = Feature(value, tokens.width, per_token=True)


_BUILDERS: dict[str, Callable[[_Step], None]] = {
    "Pooling": _pooling,
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
    "Dropout": lambda step: None,
    "WeightedLayerPooling": _weighted_layer_pooling,
}
