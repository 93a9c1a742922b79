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
from embedrt.types import CUDA_DTYPES, DTYPES, dtype_name


@dataclass(frozen=True)
class Placement:
    """The place where a route's graph runs.

    Attributes:
        device: The device; the first of several.
        variant: The graph file.
        dtype: The dtype to compute in; a device may compute another one than the variant's.
        threads: Threads to use.
        max_tokens: Token budget of a batch: its rows times the tokens of its longest row.
        others: More devices of the same kind, which share the batches.
    """

    device: Device
    variant: Variant
    dtype: str
    threads: int
    max_tokens: int
    others: tuple[Device, ...] = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices."""
        return (self.device, *self.others)

    @property
    def name(self) -> str:
        """The devices as users type them, such as "cuda:0" or "cuda:0, cuda:1"."""
        return ", ".join(device.name for device in self.devices)


def place(
    folder: Path,
    route: Route,
    device: Device,
    dtype: str,
    threads: int | None = None,
    max_tokens: int | None = None,
    others: tuple[Device, ...] = (),
    *,
    size_of: Callable[[Variant], int] | None = None,
) -> Placement:
    """Place a route on a device, or on several of one kind.

    Args:
        folder: The bundle, for messages.
        route: The route.
        device: The device; the first of several.
        dtype: The dtype to compute in.
        threads: Threads to use; None takes what affinity and cgroup quota allow.
        max_tokens: Token budget of a batch; None takes the device's.
        others: More devices of the same kind.
        size_of: The size of a variant's files, which the token budget of packed batches may follow.

    Raises:
        ValueError: No such dtype.
        BundleError: The bundle lacks the dtype.
        DeviceError: The device does not run the dtype's variants.
    """
    variant = choose_variant(folder, route, device, dtype)
    if max_tokens is None and device.token_budgets and variant.layout == "packed" and size_of is not None:
        max_tokens = token_budget(size_of(variant), None if device.memory is None else device.memory(device))
    return Placement(
        device,
        variant,
        dtype_name(dtype),
        available_threads() if threads is None else threads,
        device.token_budget if max_tokens is None else max_tokens,
        others,
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
    _require_dtype(device, dtype)
    stored = device.computes.get(dtype, dtype)
    variants = route.variants_in(stored)
    if not variants:
        raise BundleError(_missing(folder, route, dtype, stored))
    for variant in variants:
        if _fits(variant, device):
            return variant
    kinds = list(dict.fromkeys(kind for variant in variants for kind in variant.devices)) or ["cpu"]
    raise DeviceError(
        f"dtype {dtype!r}: its graph in {folder} runs on {', '.join(kinds)} only, not on {device.name!r}; use "
        f"device={kinds[0]!r}, or another dtype"
    )


def _require_dtype(device: Device, dtype: str) -> None:
    """Check that a device computes in a dtype, from whatever graph.

    Raises:
        DeviceError: It does not.
    """
    if not device.computes and dtype in DTYPES:
        return  # in whatever dtype a variant has
    if device.computes and dtype not in device.computes:
        graphs = " from graphs of standard ONNX operators" if device.operators == "portable" else ""
        raise DeviceError(
            f"dtype {dtype!r}: device {device.name!r} computes {', '.join(device.computes)}{graphs}; use one of these "
            "dtypes, or device='cpu'"
        )
    if not device.computes:
        kinds = [repr(other.kind) for other in DEVICES.values() if dtype in other.computes]
        raise DeviceError(
            f"dtype {dtype!r}: expected device {' or '.join(kinds)}, which computes it, got {device.name!r}; use "
            "dtype='float32'"
        )


def _fits(variant: Variant, device: Device) -> bool:
    """Decide by kind of device and by operators."""
    has_operators = variant.operators in {"portable", device.operators}
    kinds = {device.kind, *device.subkinds}
    return has_operators and (not variant.devices or not kinds.isdisjoint(variant.devices))


def _missing(folder: Path, route: Route, dtype: str, stored: str) -> str:
    message = f"{folder}: dtype {dtype!r} is not in it; it has {', '.join(route.dtypes)}"
    if others := [other.kind for other in DEVICES.values() if other.computes.get(dtype, dtype) != dtype]:
        message += f"; device {' or '.join(map(repr, others))} may compute it from float32"
    made = f"`embedrt export SOURCE --dtype {','.join([*route.dtypes, stored])}` makes a bundle that has it"
    return f"{message}; {made}{', for device cuda' if stored in CUDA_DTYPES else ''}"
