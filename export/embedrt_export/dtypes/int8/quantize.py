"""The int8 graph of a route: calibrated on texts, quantized from the float32 graph, and evaluated by its vectors."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from math import ceil, gcd
from pathlib import Path

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
from embedrt_export.dtypes.int8.linear import find_layers, observe, replace_layers
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


def quantize(folder: Path, runner: Runner, texts: Items, data: DataFile, evaluate: Evaluate) -> Variant:
    """Write the int8 graph of a route into a bundle.

    Pairs of weights are bounded, so that every CPU's fastest kernels are exact. If the vectors are not accurate enough
    with bounded weights, they are not.

    Args:
        folder: The bundle.
        runner: The route in float32.
        texts: Calibration texts, or pairs.
        data: File for all weights, also those that stay in float32.
        evaluate: Evaluates the new variant.

    Returns:
        The variant, with its proof.

    Raises:
        UnsupportedModelError: The graph has no linear layers to quantize.
        QualityError: The vectors are not accurate enough, even with many linear layers in float32.
    """
    if runner.route.architecture == sparse_static.ARCHITECTURE:
        return _unchanged(folder, runner, data, evaluate)
    start = data.mark()
    for bound in _PAIR_BOUNDS:
        data.rewind(start)
        variant, report = _quantize_under(bound, folder, runner, texts, data, evaluate)
        if report.is_good:
            return dataclasses.replace(variant, proof=report)
        logger.info("int8: not accurate enough with pairs of weights up to %d", bound)
    raise QualityError(
        f"int8: {runner.name} with {report.method}: {report.accuracy}; "
        "calibrate with texts like yours (`--calibration-texts FILE`), or leave int8 out"
    )


def _quantize_under(
    bound: int, folder: Path, runner: Runner, texts: Items, data: DataFile, evaluate: Evaluate
) -> tuple[Variant, Accuracy]:
    """Write the int8 graph with a bound for pairs of weights: the first one that is good, or else the last one."""
    source = folder / runner.route.variants_in(FLOAT32)[-1].file
    path = source.with_name(f"{source.stem}_int8.onnx")
    found = dict(_quantized(source, path, runner, _calibration_sample(runner, texts.calibration), bound))
    if not found:
        raise UnsupportedModelError(
            f"int8: the graph of {runner.name} has no linear layers that embedrt can quantize; leave int8 out"
        )
    base = onnx.load(source, load_external_data=False)
    read = _reader(base, source.parent)
    tables = quantize_embeddings(base, read, data)
    # Layers with a large error for the time that they save are the first to stay in float32.
    worst_first = sorted(found, key=lambda layer: -(found[layer].error ** 2) / found[layer].levels.size)
    for share in _KEPT_SHARES:
        kept = set(worst_first[: ceil(share * len(found))])
        chosen = {layer: quantized for layer, quantized in found.items() if layer not in kept}
        model = onnx.ModelProto()
        model.CopyFrom(base)
        replace_layers(model, chosen.items(), data, read)
        model = fuse(model, OnCpu(runner.route.position_limit)) or model
        _move_weights(model, source.parent, data)
        data.flush()
        onnx.save_model(model, path)
        variant = Variant(
            DTYPE,
            path.relative_to(folder).as_posix(),
            DATA,
            "onnxruntime",
            devices=("cpu",),
            layout="padded",
            proof=None,
            largest_pair=max(largest_pair(quantized.levels) for quantized in chosen.values()),
        )
        layers = f"{len(chosen)} of {len(found)} linear layers"
        words = " and the word embeddings" if tables else ""
        report = evaluate(variant, f"{layers}{words} in 8 bits by {texts.origin}{_PAIR_BOUNDS[bound]}")
        logger.info("int8: %s: %s", report.method, report.accuracy)
        if report.is_good:
            break
    return variant, report


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
