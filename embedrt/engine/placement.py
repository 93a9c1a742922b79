"""`Placement`: the device, variant, threads and token budget of a route, settled once and passed down."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embedrt.bundle.manifest import Route, Variant
from embedrt.engine import Device
from embedrt.engine.devices import DEVICES
from embedrt.engine.machine import available_threads
from embedrt.engine.token_budget import token_budget
from embedrt.errors import BundleError, DeviceError
from embedrt.types import EXPORTED_DTYPES, dtype_name


@dataclass(frozen=True)
class Placement:
    """The place where a route's graph runs.

    Attributes:
        device: The device.
        variant: The graph file.
        dtype: The dtype to compute in; a device may compute another one than the variant's.
        threads: Threads to use.
        max_tokens: Token budget of a batch: its rows times the tokens of its longest row.
    """

    device: Device
    variant: Variant
    dtype: str
    threads: int
    max_tokens: int


def place(
    folder: Path,
    route: Route,
    device: Device,
    dtype: str,
    threads: int | None = None,
    max_tokens: int | None = None,
    *,
    size_of: Callable[[Variant], int] | None = None,
) -> Placement:
    """Place a route on a device.

    Args:
        folder: The bundle, for messages.
        route: The route.
        device: The device.
        dtype: The dtype to compute in.
        threads: Threads to use; None takes what affinity and cgroup quota allow.
        max_tokens: Token budget of a batch; None takes the device's.
        size_of: The size of a variant's files, which the token budget of packed batches may follow.

    Raises:
        ValueError: No such dtype.
        BundleError: The bundle lacks the dtype.
        DeviceError: The device does not run the dtype's variants.
    """
    variant = choose_variant(folder, route, device, dtype)
    if max_tokens is None and device.token_budgets and variant.layout == "packed" and size_of is not None:
        max_tokens = token_budget(size_of(variant))
    return Placement(
        device,
        variant,
        dtype_name(dtype),
        available_threads() if threads is None else threads,
        device.token_budget if max_tokens is None else max_tokens,
    )


def choose_variant(folder: Path, route: Route, device: Device, dtype: str) -> Variant:
    """The first variant of a route that fits a device and a dtype.

    Args:
        folder: The bundle, for messages.
        route: The route.
        device: The device.
        dtype: The dtype, or its short spelling. A device may compute it from a variant of another dtype.

    Raises:
        ValueError: No such dtype.
        BundleError: The bundle lacks the dtype; the message has the command that adds it.
        DeviceError: The device does not run the dtype's variants.
    """
    dtype = dtype_name(dtype)
    stored = device.computes.get(dtype, dtype)
    variants = route.variants_in(stored)
    if not variants:
        raise BundleError(_missing(folder, route, dtype, stored))
    for variant in variants:
        if _fits(variant, device) and (dtype in device.computes or not device.computes):
            return variant
    if device.computes:
        raise DeviceError(
            f"dtype {dtype!r}: device {device.name!r} computes {', '.join(device.computes)} from graphs of standard "
            "ONNX operators; use one of these dtypes, or device='cpu'"
        )
    kinds = list(dict.fromkeys(kind for variant in variants for kind in variant.devices)) or ["cpu"]
    raise DeviceError(
        f"dtype {dtype!r}: its graph in {folder} runs on {', '.join(kinds)} only, not on {device.name!r}; use "
        f"device={kinds[0]!r}, or another dtype"
    )


def _fits(variant: Variant, device: Device) -> bool:
    """Decide by kind of device and by operators."""
    has_operators = variant.operators in {"portable", device.operators}
    return has_operators and (not variant.devices or device.kind in variant.devices)


def _missing(folder: Path, route: Route, dtype: str, stored: str) -> str:
    message = f"{folder}: dtype {dtype!r} is not in it; it has {', '.join(route.dtypes)}"
    if others := [other.kind for other in DEVICES.values() if dtype in other.computes]:
        message += f"; device {' or '.join(map(repr, others))} may compute it from float32"
    if stored not in EXPORTED_DTYPES:
        return f"{message}; `embedrt export` makes {' and '.join(EXPORTED_DTYPES)} only"
    return f"{message}; `embedrt export SOURCE --dtype {','.join([*route.dtypes, stored])}` makes a bundle that has it"
