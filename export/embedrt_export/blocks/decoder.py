"""The decoder-only stack of Llama and its descendants: pre-norm layers with rotary positions and a gated feed-forward.

Which of its variants a model has is data: a `Decoder`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedrt.errors import UnsupportedModelError
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.attention import attend, attention_bias, split_heads
from embedrt_export.layers.linear import TextInputs, activation, flatten, linear, rms_norm
from embedrt_export.layers.rotary import Rope, Rotation, read_rope, rotate, rotation, with_trained_length
from embedrt_export.source.configs import check_layers, check_positive
from embedrt_export.source.weights import Weights

PREFIXES = ("model.",)
BACKBONE = ("embed_tokens.", "layers.", "norm.")
IGNORED = (r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)  # angles, which repos of older versions store
_SIZES = (  # what the configs of all have, and no model without
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class Sight:
    """What a layer sees and how its positions turn.

    Attributes:
        before: How many tokens back a token sees; None is all.
        after: How many ahead.
        rope: The rotary positions.
    """

    before: int | None
    after: int | None
    rope: Rope


@dataclass(frozen=True)
class Decoder:
    """One model.

    Attributes:
        vocab_size: Rows of the embeddings.
        hidden_size: Width of the hidden states.
        heads: Query heads.
        key_heads: Heads of keys and values; neighbouring query heads share one.
        head_size: Width of a head.
        inner_size: Width of the feed-forward.
        activation: That of the feed-forward's gate.
        epsilon: Of every norm.
        layers: What each layer sees.
        query_scale: What queries are multiplied with.
        embedding_scale: What embeddings are multiplied with.
        norm_offset: Added to the weight of every norm.
        input_bias: Whether queries, keys and values have a bias.
        output_bias: Whether the attention's output has.
        inner_bias: Whether the feed-forward has.
        head_norms: Whether queries and keys are normalized per head.
        sandwich: Whether attention and feed-forward are normalized after them too, before they are added.
    """

    vocab_size: int
    hidden_size: int
    heads: int
    key_heads: int
    head_size: int
    inner_size: int
    activation: str
    epsilon: float
    layers: tuple[Sight, ...]
    query_scale: float
    embedding_scale: float = 1.0
    norm_offset: float = 0.0
    input_bias: bool = False
    output_bias: bool = False
    inner_bias: bool = False
    head_norms: bool = False
    sandwich: bool = False


def check(decoder: Decoder) -> Decoder:
    """Returns the model if its sizes go together.

    Raises:
        UnsupportedModelError: Names the keys that do not.
    """
    if decoder.heads % decoder.key_heads:
        raise UnsupportedModelError(
            f"config.json: num_attention_heads {decoder.heads} is not a multiple of "
            f"num_key_value_heads {decoder.key_heads}"
        )
    if decoder.head_size < 2 or decoder.head_size % 2:
        raise UnsupportedModelError(
            f"config.json: head_dim {decoder.head_size}: rotary positions turn pairs, so an even number is needed"
        )
    for seen in decoder.layers:
        if seen.rope.partial_rotary_factor != 1.0 and seen.rope.rope_type != "proportional":
            raise UnsupportedModelError(
                f"config.json: partial_rotary_factor {seen.rope.partial_rotary_factor}: this architecture turns whole "
                "heads; only rope_type 'proportional' may turn less"
            )
    return decoder


def require_plain_code(config: Mapping[str, Any]) -> None:
    """Refuses repos whose own code stands in for the architecture, unless the config says what that code changes.

    Embedding models bring code that lets every token see those after it, too; `is_causal` false says the same.

    Raises:
        UnsupportedModelError: There is such code and no such key, or `is_causal` is null.
    """
    own = config.get("auto_map")
    if "is_causal" in config and config["is_causal"] is None:
        raise UnsupportedModelError("config.json: is_causal is null; say true or false, or remove it")
    if isinstance(own, Mapping) and "AutoModel" in own and config.get("is_causal", True):
        raise UnsupportedModelError(
            f"config.json: auto_map: AutoModel {own['AutoModel']!r} is code of the repo, which embedrt does not run. "
            'If all it adds is attention in both directions, put "is_causal": false into a local copy of config.json; '
            "if the plain architecture is meant, remove auto_map there"
        )


def layer_types(given: tuple[str, ...] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """The kind of attention of each layer.

    Raises:
        UnsupportedModelError: A kind is unknown, or there is not one for each layer.
    """
    types = default if given is None else given
    for kind in types:
        if kind not in LAYER_TYPES:
            raise UnsupportedModelError(
                f"config.json: layer_types: {kind!r} is not supported; supported: {', '.join(LAYER_TYPES)}"
            )
    if len(types) != len(default):
        raise UnsupportedModelError(
            f"config.json: layer_types has {len(types)} entries for num_hidden_layers {len(default)}"
        )
    return types


def sight(rope: Rope, window: int | None, *, causal: bool) -> Sight:
    """What a layer sees.

    Args:
        rope: The rotary positions.
        window: `sliding_window`, or None. In a causal model it counts the token itself, in both directions it does
            not.
        causal: Whether a token sees only what is before it.

    Raises:
        UnsupportedModelError: The window is not a length.
    """
    if window is not None and window < 1:
        raise UnsupportedModelError(f"config.json: sliding_window {window} is not a length")
    if causal:
        return Sight(before=None if window is None else window - 1, after=0, rope=rope)
    return Sight(before=window, after=window, rope=rope)


def read_positions(
    parameters: Mapping[str, Any], where: str, *, theta: float, longest: int, trained: int | None = None
) -> Rope:
    """Reads rotary positions with what transformers fills in from the rest of the config.

    "dynamic" is "default" up to `longest`, see `reach`.

    Args:
        parameters: `rope_parameters` or `rope_scaling`.
        where: Its name, for messages.
        theta: The base where it has none.
        longest: `max_position_embeddings`.
        trained: `original_max_position_embeddings` beside it, which goes first.
    """
    content = with_trained_length(parameters, longest=longest, trained=trained)
    kind = content.get("rope_type", content.get("type"))
    if kind == "dynamic":
        return read_rope({key: content[key] for key in ("rope_theta",) if key in content}, where, theta=theta)
    if kind == "yarn" and "factor" in content and content["factor"] is None:
        content["factor"] = longest / content["original_max_position_embeddings"]
    return read_rope(content, where, theta=theta)


def reach(parameters: Mapping[str, Any], longest: int) -> int | None:
    """How many tokens the rotary positions reach, or None without limit.

    "dynamic" turns by other angles as soon as a batch is longer than `longest`, whatever is in it; up to there it is
    "default".
    """
    return longest if parameters.get("rope_type", parameters.get("type")) == "dynamic" else None


def check_sizes(config: Any, *more: str) -> None:
    """Checks the sizes that all decoders have, and the fields named, before anything is computed of them.

    Raises:
        UnsupportedModelError: No model has such a size; the message names the key.
    """
    check_positive(config, *_SIZES, *more)
    check_layers(config.num_hidden_layers)


def build(graph: GraphBuilder, decoder: Decoder, weights: Weights, inputs: TextInputs) -> list[str]:
    """Adds the graph; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer.

    The last ones are those after the final norm.
    """
    words = weights("embed_tokens.weight", decoder.vocab_size, decoder.hidden_size)
    if decoder.embedding_scale != 1.0:
        words = words * words.dtype.type(decoder.embedding_scale)
    x = graph.op("Gather", graph.weight("embed_tokens.weight", words), inputs.input_ids)
    states = [flatten(graph, x, decoder.hidden_size)]
    for i, seen in enumerate(decoder.layers):
        states.append(_layer(graph, decoder, weights, states[-1], inputs, seen, f"layers.{i}"))
    states[-1] = _norm(graph, decoder, weights, states[-1], "norm")
    return states


def _layer(
    graph: GraphBuilder, decoder: Decoder, weights: Weights, x: str, inputs: TextInputs, seen: Sight, layer: str
) -> str:
    after_attention, before_inner, after_inner = (
        ("post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
        if decoder.sandwich
        else (None, "post_attention_layernorm", None)
    )
    inside = _norm(graph, decoder, weights, x, f"{layer}.input_layernorm")
    inside = _attention(graph, decoder, weights, inside, inputs, seen, f"{layer}.self_attn")
    if after_attention:
        inside = _norm(graph, decoder, weights, inside, f"{layer}.{after_attention}")
    x = graph.op("Add", x, inside)
    inside = _norm(graph, decoder, weights, x, f"{layer}.{before_inner}")
    inside = _feed_forward(graph, decoder, weights, inside, f"{layer}.mlp")
    if after_inner:
        inside = _norm(graph, decoder, weights, inside, f"{layer}.{after_inner}")
    return graph.op("Add", x, inside)


def _attention(
    graph: GraphBuilder, decoder: Decoder, weights: Weights, x: str, inputs: TextInputs, seen: Sight, name: str
) -> str:
    heads, key_heads, size = decoder.heads, decoder.key_heads, decoder.head_size
    turned = rotation(graph, inputs, seen.rope, size)
    # The scale goes into what comes last before the rotation, which keeps lengths.
    scale, norm_scale = (1.0, decoder.query_scale) if decoder.head_norms else (decoder.query_scale, 1.0)
    query = _heads(graph, decoder, weights, x, inputs, f"{name}.q", heads, scale)
    key = _heads(graph, decoder, weights, x, inputs, f"{name}.k", key_heads)
    value = _heads(graph, decoder, weights, x, inputs, f"{name}.v", key_heads)
    query = _turned(graph, decoder, weights, query, turned, f"{name}.q_norm", norm_scale)
    key = _turned(graph, decoder, weights, key, turned, f"{name}.k_norm")
    bias = attention_bias(graph, inputs, before=seen.before, after=seen.after)
    attended = attend(graph, query, key, value, bias, heads=heads, size=size, groups=heads // key_heads)
    return linear(
        graph, weights, attended, f"{name}.o_proj", heads * size, decoder.hidden_size, bias=decoder.output_bias
    )


def _heads(
    graph: GraphBuilder,
    decoder: Decoder,
    weights: Weights,
    x: str,
    inputs: TextInputs,
    name: str,
    heads: int,
    scale: float = 1.0,
) -> str:
    """`[tokens, hidden]` to `[batch, sequence, heads, size]`."""
    hidden, size, bias = decoder.hidden_size, decoder.head_size, decoder.input_bias
    x = linear(graph, weights, x, f"{name}_proj", hidden, heads * size, bias=bias, scale=scale)
    return split_heads(graph, x, inputs, heads, size)


def _turned(
    graph: GraphBuilder, decoder: Decoder, weights: Weights, x: str, turned: Rotation, norm: str, scale: float = 1.0
) -> str:
    if decoder.head_norms:
        x = rms_norm(graph, weights, x, norm, decoder.head_size, decoder.epsilon, decoder.norm_offset, scale)
    return rotate(graph, x, turned, decoder.head_size)


def _feed_forward(graph: GraphBuilder, decoder: Decoder, weights: Weights, x: str, name: str) -> str:
    """`down(activation(gate(x)) * up(x))`."""
    hidden, inner, bias = decoder.hidden_size, decoder.inner_size, decoder.inner_bias
    gate = activation(
        graph, decoder.activation, linear(graph, weights, x, f"{name}.gate_proj", hidden, inner, bias=bias)
    )
    up = linear(graph, weights, x, f"{name}.up_proj", hidden, inner, bias=bias)
    return linear(graph, weights, graph.op("Mul", gate, up), f"{name}.down_proj", inner, hidden, bias=bias)


def _norm(graph: GraphBuilder, decoder: Decoder, weights: Weights, x: str, name: str) -> str:
    return rms_norm(graph, weights, x, name, decoder.hidden_size, decoder.epsilon, decoder.norm_offset)
