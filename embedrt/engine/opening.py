"""The engine of a graph: by its layout and the kind of device."""

from pathlib import Path

from embedrt.engine import Device, Engine, cpu, cuda
from embedrt.engine.int8_saturation import relies_on
from embedrt.engine.int8_weights import require_pairs
from embedrt.engine.placement import Placement
from embedrt.engine.session import Interface, Load, SessionEngine


def open_engine(
    graph: Path,
    device: Device,
    placement: Placement,
    *,
    interface: Interface,
    weights_bytes: int,
    prepack: bool,
    load: Load,
) -> Engine:
    """Make the engine of a graph.

    Args:
        graph: The ONNX file, for messages.
        device: The device.
        placement: The placement of its route.
        interface: The inputs and outputs that the graph must have.
        weights_bytes: Size of the graph's weights.
        prepack: False leaves large weights as they are mapped.
        load: Calls a function with the path to open the graph with.

    Raises:
        BundleError: The graph has another interface, or int8 weights that saturate against the word of the manifest.
        DeviceError: The device is not available.
    """
    variant, packing = placement.variant, placement.variant.packing
    if variant.dtype == "int8" and device.kind == cpu.DEVICE.kind and relies_on(variant.largest_pair):
        load(lambda opened: require_pairs(graph, variant, opened))
    if packing is not None and device.kind == cuda.DEVICE.kind:
        from embedrt.engine.cuda_runs import PackedCudaEngine  # nothing but CUDA needs it

        return PackedCudaEngine(
            graph, device, placement, packing, interface=interface, weights_bytes=weights_bytes, load=load
        )
    return SessionEngine(
        graph,
        device,
        placement.threads,
        interface=interface,
        dtype=placement.dtype,
        weights_bytes=weights_bytes,
        prepack=prepack,
        load=load,
    )
