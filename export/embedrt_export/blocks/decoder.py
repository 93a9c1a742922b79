"""The decoder-only stack of Llama and its descendants: pre-norm layers with rotary positions and a gated feed-forward.

The variants are data: a `Decoder` describes one model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedrt.errors import UnsupportedModelError
from embedrt_export.layers.attention import AttentionWindow, Heads, attend, attention_bias, split_heads
from embedrt_export.layers.rotary import Rope, read_rope, rotate, rotation, with_trained_length
from embedrt_export.layers.scope import Scope
from embedrt_export.source.configs import check_multiple

PREFIXES = ("model.",)
BACKBONE = ("embed_tokens.", "layers.", "norm.")
IGNORED = (r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)  # angles, which repos of older versions store
LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class DecoderLayer:
    """Differences between the layers of one model.

    Attributes:
        window: The tokens that a token attends to.
        rope: The rotary positions.
    """

    window: AttentionWindow
    rope: Rope


@dataclass(frozen=True)
class Decoder:
    """One model.

    Attributes:
        vocab_size: Rows of the embeddings.
        hidden_size: Width of the hidden states.
        heads: Number of query heads.
        key_heads: Number of heads of keys and values; neighboring query heads share one.
        head_size: Width of a head.
        inner_size: Width of the feed-forward.
        activation: Activation of the feed-forward's gate.
        epsilon: Added to the variance in every norm.
        layers: Attention window and rotary positions of each layer.
        query_scale: Factor of the queries.
        embedding_scale: Factor of the embeddings.
        norm_offset: Added to the weight of every norm.
        input_bias: True if queries, keys and values have a bias.
        output_bias: True if the attention's output has one.
        inner_bias: True if the feed-forward has one.
        head_norms: True if queries and keys are normalized per head.
        sandwich: True if the outputs of attention and feed-forward are normalized too, before they are added.
    """

    vocab_size: int
    hidden_size: int
    heads: int
    key_heads: int
    head_size: int
    inner_size: int
    activation: str
    epsilon: float
    layers: tuple[DecoderLayer, ...]
    query_scale: float
    embedding_scale: float = 1.0
    norm_offset: float = 0.0
    input_bias: bool = False
    output_bias: bool = False
    inner_bias: bool = False
    head_norms: bool = False
    sandwich: bool = False


def check(decoder: Decoder) -> Decoder:
    """Return the model if its sizes fit each other.

    Raises:
        UnsupportedModelError: They do not; the message names the keys.
    """
    check_multiple("num_attention_heads", decoder.heads, "num_key_value_heads", decoder.key_heads)
    if decoder.head_size < 2 or decoder.head_size % 2:
        raise UnsupportedModelError(
            f"config.json: head_dim {decoder.head_size}: rotary positions rotate pairs, so an even number is needed"
        )
    for layer in decoder.layers:
        if layer.rope.partial_rotary_factor != 1.0 and layer.rope.rope_type != "proportional":
            raise UnsupportedModelError(
                f"config.json: partial_rotary_factor {layer.rope.partial_rotary_factor}: this architecture rotates "
                "whole heads; only rope_type 'proportional' may rotate less"
            )
    return decoder


def require_plain_code(config: Mapping[str, Any]) -> None:
    """Require that the architecture is not replaced by the repo's own code, unless the config states the change.

    Embedding models bring code for bidirectional attention; `is_causal` false states the same.

    Raises:
        UnsupportedModelError: There is such code and no such key, or `is_causal` is null.
    """
    own = config.get("auto_map")
    if "is_causal" in config and config["is_causal"] is None:
        raise UnsupportedModelError("config.json: is_causal: expected true or false, got null; set it or remove it")
    if isinstance(own, Mapping) and "AutoModel" in own and config.get("is_causal", True):
        raise UnsupportedModelError(
            f"config.json: auto_map: AutoModel {own['AutoModel']!r} is code of the repo, which embedrt does not run. "
            'If all it adds is attention in both directions, put "is_causal": false into a local copy of config.json; '
            "if the plain architecture is meant, remove auto_map there"
        )


def layer_types(given: tuple[str, ...] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """Kind of attention of each layer.

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


def attention_window(window: int | None, *, causal: bool) -> AttentionWindow:
    """Attention window of a layer.

    Args:
        window: `sliding_window`, or None. In a causal model it includes the token itself, in both directions it does
            not.
        causal: True if a token attends only to itself and the tokens before it.

    Raises:
        UnsupportedModelError: The window is not a length.
    """
    if window is not None and window < 1:
        raise UnsupportedModelError(f"config.json: sliding_window: expected a positive integer, got {window}")
    if causal:
        return AttentionWindow(before=None if window is None else window - 1, after=0)
    return AttentionWindow(before=window, after=window)


def read_positions(
    parameters: Mapping[str, Any], where: str, *, theta: float, longest: int, trained: int | None = None
) -> Rope:
    """Read rotary positions, with the values that transformers fills in from the rest of the config.

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
    """Number of tokens that the rotary positions reach, or None without limit.

    "dynamic" rotates by other angles as soon as a batch is longer than `longest`, whatever its content; up to there it
    is "default".
    """
    return longest if parameters.get("rope_type", parameters.get("type")) == "dynamic" else None


def build(scope: Scope, decoder: Decoder) -> list[str]:
    """Add the model; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer.

    The final norm is applied to the last of them.
    """
    words = scope.read("embed_tokens.weight", decoder.vocab_size, decoder.hidden_size)
    if decoder.embedding_scale != 1.0:
        words = words * words.dtype.type(decoder.embedding_scale)
    x = scope.op("Gather", scope.add("embed_tokens.weight", words), scope.inputs.input_ids)
    states = [scope.flatten(x, decoder.hidden_size)]
    for i, layer in enumerate(decoder.layers):
        states.append(_layer(scope.at(f"layers.{i}"), states[-1], decoder, layer))
    states[-1] = _norm(scope, states[-1], decoder, "norm")
    return states


def _layer(scope: Scope, x: str, decoder: Decoder, layer: DecoderLayer) -> str:
    after_attention, before_inner, after_inner = (
        ("post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
        if decoder.sandwich
        else (None, "post_attention_layernorm", None)
    )
    inside = _norm(scope, x, decoder, "input_layernorm")
    inside = _attention(scope.at("self_attn"), inside, decoder, layer)
    if after_attention:
        inside = _norm(scope, inside, decoder, after_attention)
    x = scope.op("Add", x, inside)
    inside = _norm(scope, x, decoder, before_inner)
    inside = _feed_forward(scope.at("mlp"), inside, decoder)
    if after_inner:
        inside = _norm(scope, inside, decoder, after_inner)
    return scope.op("Add", x, inside)


def _attention(scope: Scope, x: str, decoder: Decoder, layer: DecoderLayer) -> str:
    heads, key_heads, size = decoder.heads, decoder.key_heads, decoder.head_size
    by = rotation(scope, layer.rope, size)

    def split(name: str, heads: int, scale: float = 1.0) -> str:
        """Project `[tokens, hidden]` to `[batch, sequence, heads, size]`."""
        hidden, bias = decoder.hidden_size, decoder.input_bias
        return split_heads(scope, scope.linear(x, name, hidden, heads * size, bias=bias, scale=scale), heads, size)

    def rotated(part: str, norm: str, scale: float = 1.0) -> str:
        if decoder.head_norms:
            offset = decoder.norm_offset
            part = scope.rms_norm(part, norm, size, decoder.epsilon, offset=offset, scale=scale)
        return rotate(scope.graph, part, by, size)

    # The scale goes into the last step before the rotation, which keeps lengths.
    scale, norm_scale = (1.0, decoder.query_scale) if decoder.head_norms else (decoder.query_scale, 1.0)
    query = split("q_proj", heads, scale)
    key = split("k_proj", key_heads)
    value = split("v_proj", key_heads)
    query = rotated(query, "q_norm", norm_scale)
    key = rotated(key, "k_norm")
    bias = attention_bias(scope, layer.window)
    attended = attend(scope, query, key, value, bias, Heads(heads, size, heads // key_heads))
    return scope.linear(attended, "o_proj", heads * size, decoder.hidden_size, bias=decoder.output_bias)


def _feed_forward(scope: Scope, x: str, decoder: Decoder) -> str:
    """Add `down(activation(gate(x)) * up(x))`."""
    hidden, inner, bias = decoder.hidden_size, decoder.inner_size, decoder.inner_bias
    gate = scope.activation(decoder.activation, scope.linear(x, "gate_proj", hidden, inner, bias=bias))
    up = scope.linear(x, "up_proj", hidden, inner, bias=bias)
    return scope.linear(scope.op("Mul", gate, up), "down_proj", inner, hidden, bias=bias)


def _norm(scope: Scope, x: str, decoder: Decoder, name: str) -> str:
    return scope.rms_norm(x, name, decoder.hidden_size, decoder.epsilon, offset=decoder.norm_offset)
