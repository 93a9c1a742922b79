"""The engine of a placement: one session, sessions by shape, or several devices that share the batches."""

from collections.abc import Callable, Sequence

from embedrt.engine import Device, Engine
from embedrt.engine.several import SeveralEngines
from embedrt.engine.static_shapes import StaticShapes


def make_engine(devices: Sequence[Device], threads: int, make: Callable[[Device], Engine]) -> Engine:
    """Make the engine of a device, or of several that share the batches.

    Args:
        devices: Different devices of one kind.
        threads: CPU threads to use.
        make: Makes the session of one device.
    """
    engines = [StaticShapes(device, threads, make) if device.compiles else make(device) for device in devices]
    return engines[0] if len(engines) == 1 else SeveralEngines(engines)
