"""The int8 graphs of a route: calibrated on texts, quantized from the float32 graph, and evaluated by their vectors."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, gcd
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data
from tqdm.auto import tqdm

from embedrt.bundle.manifest import FLOAT32, Variant
from embedrt.bundle.reports import Accuracy
from embedrt.errors import QualityError, UnsupportedModelError
from embedrt.run.runner import Runner
from embedrt.tasks.graph_values import graph_tokens, output_of
from embedrt.verify.parity import Item
from embedrt_export.dtypes.int8.absorb import find_sources
from embedrt_export.dtypes.int8.activations import Floats, choose
from embedrt_export.dtypes.int8.embeddings import quantize_embeddings
from embedrt_export.dtypes.int8.gptq import round_weights
from embedrt_export.dtypes.int8.layer import LinearLayer, QuantizedLayer
from embedrt_export.dtypes.int8.levels import EXACT_PAIR, FULL_PAIR, largest_pair
from embedrt_export.dtypes.int8.linear import (
    AddMatmul,
    find_layers,
    fused_matmul,
    observe,
    portable_matmul,
    replace_layers,
)
from embedrt_export.dtypes.int8.texts import Items
from embedrt_export.graph.builder import needed
from embedrt_export.graph.data_file import DataFile
from embedrt_export.graph.fuse_cpu import OnCpu, fuse
from embedrt_export.routes import sparse_static

logger = logging.getLogger("embedrt.export")

DTYPE = "int8"
DATA = "onnx/model_int8.onnx_data"
# Tokens to calibrate on, and the bytes of activations in memory at a time.
_TOKENS, _HELD = 12_000, 256 * 2**20
# Shares of the linear layers that stay in float32, tried until the vectors are accurate enough.
_KEPT_SHARES = (0.0, 0.03, 0.06, 0.12, 0.25, 0.4)
# Bounds for pairs of weights, tried until the vectors are accurate enough, each with a remark for the report.
_PAIR_BOUNDS = {EXACT_PAIR: "", FULL_PAIR: ", with slower kernels on CPUs without VNNI"}


Evaluate = Callable[[Variant, str], Accuracy]
"""Function that encodes texts with a new variant and reports; the string describes the quantization."""


@dataclass(frozen=True)
class _Form:
    """One form of the int8 graph; all of a route share their weights.

    Attributes:
        ending: The end of the file's name.
        operators: The operators that it uses; see `Variant`.
        devices: The kinds of device that run it.
        add_matmul: Makes the nodes of a quantized matmul.
        fuses: True if attention is one node.
    """

    ending: str
    operators: Literal["portable", "onnxruntime"]
    devices: tuple[str, ...]
    add_matmul: AddMatmul
    fuses: bool


_FAST = _Form("_int8_cpu.onnx", "onnxruntime", ("cpu",), fused_matmul, fuses=True)
_PORTABLE = _Form("_int8.onnx", "portable", (), portable_matmul, fuses=False)


def quantize(folder: Path, runner: Runner, texts: Items, data: DataFile, evaluate: Evaluate) -> tuple[Variant, ...]:
    """Write the int8 graphs of a route into a bundle: the fastest for CPUs first, then one of standard operators.

    Pairs of weights are bounded, so that every CPU's fastest kernels are exact. If the vectors are not accurate enough
    with bounded weights, they are not. Then there is no graph of standard operators: other tools do not know which
    CPUs need slower kernels.

    Args:
        folder: The bundle.
        runner: The route in float32.
        texts: Calibration texts, or pairs.
        data: File for all weights, also those that stay in float32.
        evaluate: Evaluates the new variant.

    Returns:
        The variants, with their proofs.

    Raises:
        UnsupportedModelError: The graph has no linear layers to quantize.
        QualityError: The vectors are not accurate enough, even with many linear layers in float32.
    """
    if runner.route.architecture == sparse_static.ARCHITECTURE:
        return (_unchanged(folder, runner, data, evaluate),)
    start = data.mark()
    for bound in _PAIR_BOUNDS:
        data.rewind(start)
        draft = _draft(bound, folder, runner, texts, data)
        fast, kept, report = _first_good(draft, _FAST, _KEPT_SHARES, evaluate)
        if report.is_good:
            return fast, *_portable(draft, kept, evaluate)
        logger.info("int8: not accurate enough with pairs of weights up to %d", bound)
    raise QualityError(
        f"int8: {runner.name} with {report.method}: {report.accuracy}; "
        "calibrate with texts like yours (`--calibration-texts FILE`), or leave int8 out"
    )


@dataclass(frozen=True)
class _Draft:
    """The quantized layers of a route, from which its int8 graphs are made.

    Attributes:
        folder: The bundle.
        runner: The route in float32.
        source: The float32 graph.
        data: File for all weights.
        base: The float32 graph with quantized word embeddings.
        read: Reads the values of a tensor of the graph.
        found: The quantized layers.
        bound: The bound for their pairs of weights.
        method: The rest of the description of the quantization, after the number of layers.
    """

    folder: Path
    runner: Runner
    source: Path
    data: DataFile
    base: onnx.ModelProto
    read: Callable[[str], Floats]
    found: Mapping[LinearLayer, QuantizedLayer]
    bound: int
    method: str


def _draft(bound: int, folder: Path, runner: Runner, texts: Items, data: DataFile) -> _Draft:
    """Quantize all layers of a route with a bound for pairs of weights."""
    source = folder / runner.route.variants_in(FLOAT32)[-1].file
    scratch = source.with_name(f"{source.stem}_int8.onnx")
    found = dict(_quantized(source, scratch, runner, _calibration_sample(runner, texts.calibration), bound))
    if not found:
        raise UnsupportedModelError(
            f"int8: the graph of {runner.name} has no linear layers that embedrt can quantize; leave int8 out"
        )
    base = onnx.load(source, load_external_data=False)
    read = _reader(base, source.parent)
    words = " and the word embeddings" if quantize_embeddings(base, read, data) else ""
    method = f"linear layers{words} in 8 bits by {texts.origin}{_PAIR_BOUNDS[bound]}"
    return _Draft(folder, runner, source, data, base, read, found, bound, method)


def _first_good(
    draft: _Draft, form: _Form, shares: Sequence[float], evaluate: Evaluate
) -> tuple[Variant, Sequence[float], Accuracy]:
    """Write one form of the graph with more and more layers in float32, until it is good.

    Returns:
        The variant, the shares from its own on, and its report: of the first that is good, or else of the last.
    """
    left = shares
    while True:
        variant, method = _write(draft, form, left[0])
        report = evaluate(variant, method)
        logger.info("int8: %s: %s", report.method, report.accuracy)
        if report.is_good or len(left) == 1:
            return dataclasses.replace(variant, proof=report), left, report
        left = left[1:]


def _portable(draft: _Draft, shares: Sequence[float], evaluate: Evaluate) -> tuple[Variant, ...]:
    """Write the graph of standard operators, if its vectors are right on every CPU and accurate enough."""
    if draft.bound > EXACT_PAIR or draft.runner.route.variants_in(FLOAT32)[-1].operators != _PORTABLE.operators:
        return ()
    start = draft.data.mark()
    variant, _, report = _first_good(draft, _PORTABLE, shares, evaluate)
    if report.is_good:
        return (variant,)
    logger.info("int8: without a graph of standard operators, which is not accurate enough")
    (draft.folder / variant.file).unlink()
    draft.data.rewind(start)
    return ()


def _write(draft: _Draft, form: _Form, share: float) -> tuple[Variant, str]:
    """Write one form of the graph with a share of the layers in float32, and describe it."""
    found, source = draft.found, draft.source
    # Layers with a large error for the time that they save are the first to stay in float32.
    worst_first = sorted(found, key=lambda layer: -(found[layer].error ** 2) / found[layer].levels.size)
    kept = set(worst_first[: ceil(share * len(found))])
    chosen = {layer: quantized for layer, quantized in found.items() if layer not in kept}
    model = onnx.ModelProto()
    model.CopyFrom(draft.base)
    replace_layers(model, chosen.items(), draft.data, draft.read, form.add_matmul)
    if form.fuses:
        model = fuse(model, OnCpu(draft.runner.route.position_limit)) or model
    _move_weights(model, source.parent, draft.data)
    draft.data.flush()
    path = source.with_name(f"{source.stem}{form.ending}")
    onnx.save_model(model, path)
    variant = Variant(
        DTYPE,
        path.relative_to(draft.folder).as_posix(),
        DATA,
        form.operators,
        devices=form.devices,
        layout="padded",
        proof=None,
        largest_pair=max(largest_pair(quantized.levels) for quantized in chosen.values()),
    )
    return variant, f"{len(chosen)} of {len(found)} {draft.method}"


def _unchanged(folder: Path, runner: Runner, data: DataFile, evaluate: Evaluate) -> Variant:
    """The float32 graph of a route without linear layers, beside one that has some."""
    (portable,) = runner.route.variants_in(FLOAT32)
    model = onnx.load(folder / portable.file, load_external_data=False)
    path = (folder / portable.file).with_name(f"{Path(portable.file).stem}_int8.onnx")
    _move_weights(model, path.parent, data)
    data.flush()
    onnx.save_model(model, path)
    file = path.relative_to(folder).as_posix()
    variant = dataclasses.replace(portable, dtype=DTYPE, file=file, data=DATA, devices=("cpu",), proof=None)
    return dataclasses.replace(variant, proof=evaluate(variant, "the weights of tokens in float32"))


def _move_weights(model: onnx.ModelProto, folder: Path, data: DataFile) -> None:
    """Copy weights from other data files, so that the graph only needs this one."""
    for tensor in model.graph.initializer:
        if uses_external_data(tensor) and ExternalDataInfo(tensor).location != data.name:
            load_external_data_for_tensor(tensor, str(folder))
            tensor.CopyFrom(data.tensor(tensor.name, numpy_helper.to_array(tensor)))


def _calibration_sample(runner: Runner, texts: Sequence[Item]) -> list[Item]:
    """Choose texts across the whole list, up to the number of tokens to calibrate on."""
    chosen: list[Item] = []
    tokens = 0
    step = next(step for step in range(len(texts) // 2 + 1, 2 * len(texts) + 2) if gcd(step, len(texts)) == 1)
    for i in range(len(texts)):
        text = texts[i * step % len(texts)]
        chosen.append(text)
        tokens += len(graph_tokens(runner, [text]).ids)
        if tokens >= _TOKENS:
            break
    return chosen


def _quantized(
    source: Path, scratch: Path, runner: Runner, texts: Sequence[Item], bound: int
) -> Iterator[tuple[LinearLayer, QuantizedLayer]]:
    """Quantize every linear layer, with as many activations at a time as memory allows."""
    model = onnx.load(source, load_external_data=False)
    # The report is about one output. Nothing would tell if a layer that only others need lost too much.
    measured = {node.name for node in needed(list(model.graph.node), [output_of(runner)])}
    layers = [layer for layer in find_layers(model) if layer.node in measured]
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    read = _reader(model, source.parent)
    sources = find_sources(model, layers)
    readers: dict[str, list[LinearLayer]] = {}
    for layer in layers:
        readers.setdefault(layer.x, []).append(layer)

    tokens = len(graph_tokens(runner, texts).ids)
    portions: list[list[str]] = []
    held = _HELD
    for x, (first, *_) in readers.items():
        size = 4 * tokens * shapes[first.weight][1]
        if held + size > _HELD:
            portions.append([])
            held = 0
        portions[-1].append(x)
        held += size
    with tqdm(total=len(readers), desc="Quantizing", unit="activation", disable=None) as bar:
        for values in portions:
            for x, observed in observe(model, scratch, runner, texts, values).items():
                yield from _quantized_together(observed, readers[x], read, bound, is_free=x in sources)
            bar.update(len(values))


def _reader(model: onnx.ModelProto, folder: Path) -> Callable[[str], Floats]:
    """Make a function that reads a tensor of the graph, from the graph or from a data file in the folder."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def read(name: str) -> Floats:
        tensor = TensorProto()
        tensor.CopyFrom(tensors[name])
        if uses_external_data(tensor):
            load_external_data_for_tensor(tensor, str(folder))
        return numpy_helper.to_array(tensor)

    return read


def _quantized_together(
    x: Floats, readers: Sequence[LinearLayer], read: Callable[[str], Floats], bound: int, *, is_free: bool
) -> Iterator[tuple[LinearLayer, QuantizedLayer]]:
    """Quantize the linear layers that read one activation, with its calibration values `x` `[tokens, channels]`."""
    weights = [np.ascontiguousarray(read(layer.weight).T) for layer in readers]
    scheme = choose(x, weights, bound, is_free=is_free)
    quantized, excess = scheme.quantized(x), scheme.excess(x)
    varying = quantized - quantized.mean(axis=0)  # the bias corrects what errors of weights have in common
    moments = (varying.T @ varying).astype(np.float64)
    for layer, weight in zip(readers, weights, strict=True):
        factor = np.ones(1) if scheme.smoothing is None else scheme.smoothing[:, None].astype(np.float64)
        levels, scales = round_weights(weight.astype(np.float64) * factor, moments, bound)
        outliers = weight[scheme.outliers]
        # The bias corrects the mean error of the outputs.
        exact = x @ weight
        error = exact - quantized @ (levels * scales) - excess @ outliers
        mean = error.mean(axis=0, dtype=np.float64)
        bias = 0.0 if layer.bias is None else read(layer.bias)
        size = max(float(np.linalg.norm(exact)), 1e-30)
        yield (
            layer,
            QuantizedLayer(
                scheme,
                levels,
                scales,
                (bias + mean).astype(np.float32),
                outliers,
                float(np.linalg.norm(error - mean)) / size,
            ),
        )
