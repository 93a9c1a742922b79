"""Export method "native": the encoder built from config and safetensors, by its architecture family."""

import dataclasses
from pathlib import Path
from typing import Any

from embedrt.errors import ExportError
from embedrt.types import TOKENS
from embedrt_export.families import FAMILIES, choose_task
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.heads.head import Feature
from embedrt_export.layers.inputs import text_inputs, unflatten
from embedrt_export.layers.scope import Scope
from embedrt_export.routes.decide import Decisions
from embedrt_export.routes.encoder import Encoder, max_seq_length, position_limit
from embedrt_export.routes.modules import ModuleSpec
from embedrt_export.source.adapters import CONFIG as ADAPTER_CONFIG
from embedrt_export.source.adapters import Adapter
from embedrt_export.source.unsupported import check_supported
from embedrt_export.source.weights import Weights, quote
from embedrt_export.tokenizer import build_tokenizer

_SHOWN = 5


def build(graph: GraphBuilder, module: ModuleSpec, decisions: Decisions, scratch: Path) -> Encoder:
    """Add the encoder to a graph.

    Args:
        graph: The graph.
        module: The Transformer module.
        decisions: The module's family, and the task whose adapter is merged.
        scratch: Unused: nothing is written.

    Raises:
        UnsupportedModelError: The architecture, or a key of its config, is not supported.
        ExportError: A file is missing or damaged.
    """
    del scratch
    settings, folder, model_type = module.transformer, module.folder, decisions.by_path[module.path].family
    check_supported({**settings.config, "model_type": model_type}, FAMILIES)
    family = FAMILIES[model_type]
    config = choose_task(family, family.read_config(settings.config), decisions.adapter)
    tokenizer = build_tokenizer(
        folder,
        model_type,
        config.vocab_size,
        do_lower_case=settings.do_lower_case,
        pairs=decisions.task == "score",
        markers=settings.late.markers,
    )
    if not getattr(config, "type_vocab_size", None):  # transformers drops them too
        tokenizer = dataclasses.replace(
            tokenizer, tokenization=dataclasses.replace(tokenizer.tokenization, token_type_ids=False)
        )
    inputs = text_inputs(graph, token_type_ids=tokenizer.tokenization.token_type_ids)
    adapter = Adapter(folder, family.prefixes) if (folder / ADAPTER_CONFIG).is_file() else None
    with Weights(settings.base, family.prefixes, family.renames, adapter) as weights:
        states = family.build(Scope(graph, weights, inputs), config)
        _require_all_used(weights.unused(family.backbone, family.ignored))
        digest = weights.digest()
    hidden = config.hidden_size
    stated, positions = getattr(config, "max_position_embeddings", None), family.positions(config)
    length = max_seq_length(settings.max_seq_length, tokenizer, stated, positions)
    return Encoder(
        architecture=model_type,
        via="native",
        identity={"model_type": model_type, **_without_defaults(config)},
        features={TOKENS: Feature(unflatten(graph, states[-1], inputs.shape, hidden), hidden, per_token=True)},
        states=states if settings.output_hidden_states else [],
        inputs=inputs,
        tokenizer=tokenizer,
        max_seq_length=length,
        position_limit=position_limit(length, stated, positions),
        digests=[digest],
    )


def _require_all_used(unused: list[str]) -> None:
    """Require that the graph uses all tensors of the backbone: otherwise the config describes another model."""
    if unused:
        shown = ", ".join(map(quote, unused[:_SHOWN]))
        more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
        raise ExportError(f"weights: config.json describes a smaller model, which does not use {shown}{more}")


def _without_defaults(config: Any) -> dict[str, Any]:
    """Values that differ from the family's defaults, so that support for a new key changes no fingerprint."""
    values = dataclasses.asdict(config)
    return {f.name: values[f.name] for f in dataclasses.fields(config) if getattr(config, f.name) != f.default}
