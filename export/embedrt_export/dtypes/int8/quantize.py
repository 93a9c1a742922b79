"""The int8 graph of a route, made of its float32 graph and texts, and judged by its vectors."""

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
from embedrt.bundle.reports import QualityReport
from embedrt.errors import QualityError, UnsupportedModelError
from embedrt.run.runner import Runner
from embedrt_export.dtypes.int8.activations import Floats, choose
from embedrt_export.dtypes.int8.embeddings import replace_tables
from embedrt_export.dtypes.int8.gptq import round_weights
from embedrt_export.dtypes.int8.linear import Product, Quantized, find_products, observe, replace_products
from embedrt_export.dtypes.int8.texts import Texts
from embedrt_export.graph.data_file import DataFile
from embedrt_export.graph.fuse_cpu import fuse

logger = logging.getLogger("embedrt.export")

DTYPE = "int8"
DATA = "onnx/model_int8.onnx_data"
# Tokens to measure activations on, and the bytes of values that are held in memory at a time.
_TOKENS, _HELD = 12_000, 256 * 2**20
# How many products stay in float32, as shares of all, until the vectors are good enough.
_LEFT_OUT = (0.0, 0.03, 0.06, 0.12, 0.25, 0.4)


Judge = Callable[[Variant, str], QualityReport]
"""Encodes with a new variant and reports; the string says what was quantized and how."""


def quantize(folder: Path, runner: Runner, texts: Texts, data: DataFile, judge: Judge) -> Variant:
    """Writes the int8 graph of a route into a bundle.

    Args:
        folder: The bundle.
        runner: The route in float32.
        texts: To measure activations on.
        data: Takes all weights, also those that stay in float32.
        judge: Judges the new variant.

    Returns:
        The variant, with its proof.

    Raises:
        UnsupportedModelError: The graph has no products that are worth 8 bits.
        QualityError: The vectors are not good enough, even with many of the products in float32.
    """
    source = folder / runner.route.variants_in(FLOAT32)[-1].file
    path = source.with_name(f"{source.stem}_int8.onnx")
    found = dict(_quantized(source, path, runner, _enough(runner, texts.calibration)))
    if not found:
        raise UnsupportedModelError(
            f"int8: the graph of {runner.name} has no linear layers that embedrt can put into 8 bits; leave int8 out"
        )
    variant = Variant(
        DTYPE, path.relative_to(folder).as_posix(), DATA, "onnxruntime", devices=("cpu",), layout="padded", proof=None
    )
    base = onnx.load(source, load_external_data=False)
    tables = replace_tables(base, _reader(base, source.parent), data)
    # Those go first whose error is large for the time that they save.
    worst_first = sorted(found, key=lambda product: -(found[product].error ** 2) / found[product].levels.size)
    for share in _LEFT_OUT:
        left_out = set(worst_first[: ceil(share * len(found))])
        model = onnx.ModelProto()
        model.CopyFrom(base)
        replace_products(model, [(key, value) for key, value in found.items() if key not in left_out], data)
        model = fuse(model) or model
        _move_weights(model, source.parent, data)
        data.flush()
        onnx.save_model(model, path)
        layers = f"{len(found) - len(left_out)} of {len(found)} linear layers"
        report = judge(variant, f"{layers}{' and the word embeddings' if tables else ''} in 8 bits by {texts.origin}")
        logger.info("int8: %s, mean cosine %.5f, min %.5f", report.method, report.mean_cosine, report.min_cosine)
        if report.is_good:
            return dataclasses.replace(variant, proof=report)
    raise QualityError(
        f"int8: with {report.method}, the cosine of the vectors of {runner.name} to those in float32 is "
        f"{report.mean_cosine:.5f} in the mean and {report.min_cosine:.5f} at least; {report.mean_cosine_allowed} and "
        f"{report.min_cosine_allowed} are asked for; "
        "calibrate with texts like yours (`--calibration-texts FILE`), or leave int8 out"
    )


def _move_weights(model: onnx.ModelProto, folder: Path, data: DataFile) -> None:
    """Copies weights that lie in another data file into this one, so that the graph needs no other."""
    for tensor in model.graph.initializer:
        if uses_external_data(tensor) and ExternalDataInfo(tensor).location != data.name:
            load_external_data_for_tensor(tensor, str(folder))
            tensor.CopyFrom(data.tensor(tensor.name, numpy_helper.to_array(tensor)))


def _enough(runner: Runner, texts: Sequence[str]) -> list[str]:
    """Texts from all over the list, as many as give tokens enough."""
    chosen, tokens = [], 0
    step = next(step for step in range(len(texts) // 2 + 1, 2 * len(texts) + 2) if gcd(step, len(texts)) == 1)
    for i in range(len(texts)):
        text = texts[i * step % len(texts)]
        chosen.append(text)
        tokens += len(runner.tokenize([text]).ids)
        if tokens >= _TOKENS:
            break
    return chosen


def _quantized(
    source: Path, scratch: Path, runner: Runner, texts: Sequence[str]
) -> Iterator[tuple[Product, Quantized]]:
    """Quantizes every product, a few inputs at a time, as memory allows."""
    model = onnx.load(source, load_external_data=False)
    products = find_products(model)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    read = _reader(model, source.parent)
    readers: dict[str, list[Product]] = {}
    for product in products:
        readers.setdefault(product.x, []).append(product)

    tokens = len(runner.tokenize(texts).ids)
    portions: list[list[str]] = []
    held = _HELD
    for x, (first, *_) in readers.items():
        size = 4 * tokens * shapes[first.weight][1]
        if held + size > _HELD:
            portions.append([])
            held = 0
        portions[-1].append(x)
        held += size
    with tqdm(total=len(readers), desc="Quantizing", unit="value", disable=None) as bar:
        for values in portions:
            for x, observed in observe(model, scratch, runner, texts, values).items():
                yield from _together(observed, readers[x], read)
            bar.update(len(values))


def _reader(model: onnx.ModelProto, folder: Path) -> Callable[[str], Floats]:
    """Gives the values of the graph's tensors, which lie in it or in a data file in the folder."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def read(name: str) -> Floats:
        tensor = TensorProto()
        tensor.CopyFrom(tensors[name])
        if uses_external_data(tensor):
            load_external_data_for_tensor(tensor, str(folder))
        return numpy_helper.to_array(tensor)

    return read


def _together(
    x: Floats, readers: Sequence[Product], read: Callable[[str], Floats]
) -> Iterator[tuple[Product, Quantized]]:
    """Quantizes the products of one input, of which `x` `[tokens, channels]` are values."""
    weights = [np.ascontiguousarray(read(product.weight).T) for product in readers]
    scheme = choose(x, weights)
    rounded, excess = scheme.rounded(x), scheme.excess(x)
    moments = (rounded.T @ rounded).astype(np.float64)
    for product, weight in zip(readers, weights, strict=True):
        factor = np.ones(1) if scheme.smoothing is None else scheme.smoothing[:, None].astype(np.float64)
        levels, scales = round_weights(weight.astype(np.float64) * factor, moments)
        exceeding = weight[scheme.exceeding]
        # What rounding adds to the results on the average is taken off by the bias.
        exact = x @ weight
        off = exact - rounded @ (levels * scales) - excess @ exceeding
        mean = off.mean(axis=0, dtype=np.float64)
        bias = 0.0 if product.bias is None else read(product.bias)
        size = max(float(np.linalg.norm(exact)), 1e-30)
        yield (
            product,
            Quantized(
                scheme,
                levels,
                scales,
                (bias + mean).astype(np.float32),
                exceeding,
                float(np.linalg.norm(off - mean)) / size,
            ),
        )
