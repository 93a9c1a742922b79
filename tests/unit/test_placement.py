"""Placement: the variant for a dtype on a device, and the dtypes that devices compute."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embedrt import Embedder
from embedrt.bundle.manifest import Route, read_manifest
from embedrt.engine.devices import DEVICES
from embedrt.engine.placement import choose_variant, place
from embedrt.errors import BundleError, DeviceError
from embedrt.tune.search import _dtypes
from embedrt.verify.parity import COMPUTED, bound_of


def route_with(bundle: Path, *added: str, **fields: Any) -> Route:
    """The route of a bundle, with variants of other dtypes."""
    route = read_manifest(bundle).routes["default"]
    new = [replace(route.variants[-1], dtype=dtype, file=f"onnx/{dtype}.onnx", **fields) for dtype in added]
    return replace(route, variants=(*route.variants, *new))


def choose(bundle: Path, device: str, dtype: str, *added: str, **fields: Any) -> str:
    return choose_variant(bundle, route_with(bundle, *added, **fields), DEVICES[device], dtype).file


def test_tf32_is_the_float32_graph_on_cuda(tiny_bundle: Path) -> None:
    assert choose(tiny_bundle, "cuda", "tf32") == choose(tiny_bundle, "cuda", "float32") == "onnx/model.onnx"
    placement = place(tiny_bundle, route_with(tiny_bundle), DEVICES["cuda"], "tf32")
    assert (placement.dtype, placement.variant.dtype) == ("tf32", "float32")


def test_tf32_elsewhere(tiny_bundle: Path) -> None:
    message = "dtype 'tf32': expected device 'cuda', which computes it, got 'cpu'; use dtype='float32'"
    with pytest.raises(DeviceError, match=f"^{message}$"):
        Embedder(tiny_bundle, "cpu", dtype="tf32")
    with pytest.raises(DeviceError, match=r"^dtype 'tf32': device 'coreml' computes float32 from graphs of"):
        choose(tiny_bundle, "coreml", "tf32")
    with pytest.raises(
        DeviceError, match=r"^dtype 'tf32': device 'openvino' computes float32, bfloat16 from graphs of"
    ):
        choose(tiny_bundle, "openvino", "tf32")


@pytest.mark.parametrize("added", [[], ["int8"]])
def test_int8_on_cuda(tiny_bundle: Path, added: list[str]) -> None:
    """The message does not advise an export that would not run there either."""
    message = (
        "dtype 'int8': device 'cuda' computes float32, tf32, float16, bfloat16; use one of these dtypes, or "
        "device='cpu'"
    )
    with pytest.raises(DeviceError, match=f"^{message}$"):
        choose(tiny_bundle, "cuda", "int8", *added, operators="onnxruntime")


@pytest.mark.parametrize("device", ["coreml", "openvino"])
def test_the_portable_int8_graph_is_not_for_devices_that_were_not_tried(tiny_bundle: Path, device: str) -> None:
    with pytest.raises(DeviceError, match=f"^dtype 'int8': device '{device}' computes float32"):
        choose(tiny_bundle, device, "int8", "int8", operators="portable", devices=())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_a_variant_of_its_own(tiny_bundle: Path, dtype: str) -> None:
    fields = {"devices": ("cuda",), "operators": "onnxruntime"}
    assert choose(tiny_bundle, "cuda", dtype, dtype, **fields) == f"onnx/{dtype}.onnx"
    with pytest.raises(DeviceError, match=rf"^dtype '{dtype}': its graph in .* runs on cuda only, not on 'cpu'; use "):
        choose(tiny_bundle, "cpu", dtype, dtype, **fields)
    with pytest.raises(BundleError, match=re.escape(f"dtype {dtype!r} is not in it; it has float32")) as caught:
        choose(tiny_bundle, "cuda", dtype)
    assert "'cuda' may compute it" not in str(caught.value)


def test_dtypes_to_tune(tiny_bundle: Path) -> None:
    """Those that a device computes count where the bundle has what it computes them from."""
    manifest = read_manifest(tiny_bundle)
    assert _dtypes(manifest, "cpu") == ["float32"]
    assert _dtypes(manifest, "cuda") == ["float32", "tf32"]
    assert _dtypes(manifest, "openvino") == ["float32", "bfloat16"]
    lossy = replace(
        manifest,
        routes={
            "default": replace(
                route_with(tiny_bundle, "int8"), variants=(route_with(tiny_bundle, "int8").variants[-1],)
            )
        },
    )
    assert _dtypes(lossy, "cuda") == ["int8"]


def test_the_bound_of_tf32(tiny_bundle: Path) -> None:
    """Three more bits than bfloat16, so an eighth of its error: far above what was seen, and far below bfloat16."""
    bound = bound_of(route_with(tiny_bundle).variants[-1], "tf32")
    assert bound == COMPUTED["tf32"]
    assert 1.05e-4 < bound.tolerance < COMPUTED["bfloat16"].tolerance / 4
    assert bound.min_cosine == pytest.approx(0.99998, abs=5e-6)
