"""Rotary position embeddings (arXiv:2104.09864), and the scaling methods that configs name."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedrt.errors import UnsupportedModelError
from embedrt_export.graph.builder import FLOAT, GraphBuilder
from embedrt_export.layers.attention import token_positions
from embedrt_export.layers.scope import Scope
from embedrt_export.source.configs import pick, strict


@dataclass(frozen=True)
class Rope:
    """`rope_parameters` of a config, or its older form `rope_theta` with `rope_scaling`.

    Attributes:
        rope_theta: Base of the wavelengths.
        rope_type: Method that extends the positions beyond those of the training.
        factor: The scaling factor.
        partial_rotary_factor: The share of a head that is rotated.
        original_max_position_embeddings: Number of positions of the training.
        attention_factor: Factor of cosine and sine ("yarn"); None derives it from `factor`.
        beta_fast: Where "yarn" begins to scale, in rotations over the training's positions.
        beta_slow: Where it scales in full.
        mscale: Numerator of the formula for `attention_factor` ("yarn").
        mscale_all_dim: Its denominator.
        truncate: True if "yarn" rounds its range to whole dimensions.
        low_freq_factor: Where "llama3" scales in full.
        high_freq_factor: Where it does not scale.
    """

    rope_theta: float = 10000.0
    rope_type: Literal["default", "linear", "llama3", "proportional", "yarn"] = "default"
    factor: float = 1.0
    partial_rotary_factor: float = 1.0
    original_max_position_embeddings: int | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0


# Keys that each type requires; "default" ignores the rest.
_REQUIRED = {
    "linear": ("factor",),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_max_position_embeddings"),
}


@dataclass(frozen=True)
class Rotation:
    """Cosine and sine of every position's angles, and the width that is rotated.

    float32 `[sequence, 1, size / 2]`; in a packed graph `[sequence, size / 2]`.
    """

    cos: str
    sin: str
    size: int


def read_rope(parameters: Mapping[str, Any] | None, where: str, *, theta: float = 10000.0) -> Rope:
    """Read `rope_parameters` or `rope_scaling`.

    Args:
        parameters: The object in the config, if it is there.
        where: Its name, for messages.
        theta: The base where the object has none.

    Raises:
        UnsupportedModelError: A key or value is not supported; the message names it.
    """
    content = {key: value for key, value in (parameters or {}).items() if value is not None}
    if "type" in content:  # the name of the key in older configs
        content.setdefault("rope_type", content["type"])
        del content["type"]
    rope = strict(Rope, {"rope_theta": theta, **content}, where)
    if rope.rope_theta <= 0 or rope.factor <= 0 or not 0 < rope.partial_rotary_factor <= 1:
        raise UnsupportedModelError(f"{where}: {rope} has a number out of range")
    for key in _REQUIRED.get(rope.rope_type, ()):
        if not content.get(key):
            raise UnsupportedModelError(f"{where}: rope_type {rope.rope_type!r} needs {key}")
    return rope


def read_whole_rope(parameters: Mapping[str, Any] | None, where: str, *, theta: float = 10000.0) -> Rope:
    """Read `rope_parameters` of an architecture that always rotates whole heads.

    Raises:
        UnsupportedModelError: A key or value is not supported; the message names it.
    """
    rope = read_rope(parameters, where, theta=theta)
    if rope.partial_rotary_factor != 1.0:
        raise UnsupportedModelError(
            f"{where}: partial_rotary_factor {rope.partial_rotary_factor} is not supported; supported: 1.0"
        )
    return rope


@dataclass(frozen=True)
class _RopeKeys:
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_theta: float | None = None
    partial_rotary_factor: float | None = None
    max_position_embeddings: int | None = None
    original_max_position_embeddings: int | None = None


def config_rope(config: Mapping[str, Any], *, theta: float) -> Rope:
    """Read the rotary positions of a whole config, for architectures that always rotate whole heads.

    `rope_scaling` takes precedence over `rope_parameters`; keys beside them fill in what they lack.

    Args:
        config: The parsed config.json.
        theta: The base where it has none.

    Raises:
        UnsupportedModelError: A key or value is not supported; the message names it.
    """
    keys = pick(_RopeKeys, config)
    where = "rope_scaling" if keys.rope_scaling else "rope_parameters"
    parameters = {
        "rope_theta": keys.rope_theta,
        "partial_rotary_factor": keys.partial_rotary_factor,
        **(keys.rope_scaling or keys.rope_parameters or {}),
    }
    parameters = with_trained_length(
        parameters, longest=keys.max_position_embeddings, trained=keys.original_max_position_embeddings
    )
    return read_whole_rope(parameters, f"config.json.{where}", theta=theta)


def with_trained_length(parameters: Mapping[str, Any], *, longest: int | None, trained: int | None) -> dict[str, Any]:
    """Rope parameters with the number of positions of the training, where their type asks for it.

    Args:
        parameters: `rope_parameters` or `rope_scaling`.
        longest: `max_position_embeddings`, which comes last.
        trained: `original_max_position_embeddings` beside the parameters, which goes first.
    """
    filled = dict(parameters)
    if filled.get("rope_type", filled.get("type")) in {"llama3", "yarn"}:
        own = filled.get("original_max_position_embeddings")
        filled["original_max_position_embeddings"] = trained or own or longest
    return filled


def frequencies(rope: Rope, head_size: int) -> tuple[NDArray[np.float32], float]:
    """Angle by which each pair of coordinates rotates from one position to the next.

    Returns:
        Angles, float32 `[rotated size / 2]`, and the factor of cosine and sine.
    """
    if rope.rope_type == "proportional":
        rotated = int(rope.partial_rotary_factor * head_size // 2)
        fixed = np.zeros(head_size // 2 - rotated, np.float32)
        angles = np.concatenate([np.float32(1) / _powers(rope, 2 * rotated, head_size), fixed], dtype=np.float32)
        return angles / np.float32(rope.factor), 1.0
    size = int(head_size * rope.partial_rotary_factor)
    powers = _powers(rope, size, size)
    if rope.rope_type == "linear":
        return np.float32(1) / powers / np.float32(rope.factor), 1.0
    if rope.rope_type == "llama3":
        return _llama3(rope, np.float32(1) / powers), 1.0
    if rope.rope_type == "yarn":
        return _yarn(rope, powers, size), _yarn_scale(rope)
    return np.float32(1) / powers, 1.0


def rotation(scope: Scope, rope: Rope, head_size: int) -> Rotation:
    """Add cosine and sine for the positions of a batch, counted from the left end of its rows."""
    graph = scope.graph
    angles, scale = frequencies(rope, head_size)
    positions = graph.op("Cast", token_positions(scope), to=FLOAT)
    table = graph.weight(f"rope.{rope.rope_type}.{rope.rope_theta:g}.{rope.factor:g}.{len(angles)}", angles)
    axes = graph.ints(1) if graph.is_packed else graph.ints(1, 2)
    rotated = graph.op("Mul", graph.op("Unsqueeze", positions, axes), table)
    cos, sin = graph.op("Cos", rotated), graph.op("Sin", rotated)
    if scale != 1.0:
        cos, sin = (graph.op("Mul", x, graph.scalar(scale)) for x in (cos, sin))
    return Rotation(graph.to_hidden(cos), graph.to_hidden(sin), 2 * len(angles))


def rotate(graph: GraphBuilder, x: str, by: Rotation, head_size: int) -> str:
    """Rotate the pairs (i, i + size / 2) of every head: `[batch, sequence, heads, head_size]`."""
    if graph.is_packed:
        positions = graph.packed_input("position_ids")
        return graph.draft_op("Rotate", x, by.cos, by.sin, positions, size=by.size)
    half, rest = by.size // 2, head_size - by.size
    parts = [half, half, *([rest] if rest else [])]
    first, second, *unrotated = graph.ops("Split", len(parts), x, graph.ints(*parts), axis=-1)
    rotated_first = graph.op("Sub", graph.op("Mul", first, by.cos), graph.op("Mul", second, by.sin))
    rotated_second = graph.op("Add", graph.op("Mul", second, by.cos), graph.op("Mul", first, by.sin))
    return graph.op("Concat", rotated_first, rotated_second, *unrotated, axis=-1)


def _powers(rope: Rope, size: int, width: int) -> NDArray[np.float32]:
    """`rope_theta ** (i / width)` for i = 0, 2, ... below `size`.

    The last bit matters, as its error grows with the position. So the power is rounded once, as torch does; numpy's
    power in float32 differs in one of five.
    """
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(width)
    return np.power(rope.rope_theta, exponents.astype(np.float64)).astype(np.float32)


def _llama3(rope: Rope, plain: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale long wavelengths, keep short ones, and interpolate between them (the rule of Llama 3.1)."""
    trained = float(rope.original_max_position_embeddings or 0)
    waves = 2 * math.pi / plain
    smooth = (trained / waves - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    between = (1 - smooth) * plain / rope.factor + smooth * plain
    long, short = waves > trained / rope.low_freq_factor, waves < trained / rope.high_freq_factor
    scaled: NDArray[Any] = np.where(long, plain / rope.factor, np.where(short, plain, between))
    return scaled.astype(np.float32)


def _yarn(rope: Rope, powers: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Scale by a linear ramp over the dimensions (arXiv:2309.00071)."""
    trained = float(rope.original_max_position_embeddings or 0)

    def dimension(rotations: float) -> float:
        return size * math.log(trained / (rotations * 2 * math.pi)) / (2 * math.log(rope.rope_theta))

    low, high = dimension(rope.beta_fast or 32), dimension(rope.beta_slow or 1)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    ramp = np.clip((np.arange(size // 2, dtype=np.float32) - low) / ((high - low) or 0.001), 0, 1)
    scaled: NDArray[Any] = 1 / (np.float32(rope.factor) * powers) * ramp + 1 / powers * (1 - ramp)
    return scaled.astype(np.float32)


def _yarn_scale(rope: Rope) -> float:
    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)
