"""The dtypes float16 and bfloat16 as writers: a CUDA graph for every route, measured on a CPU that rounds alike."""

import dataclasses
import logging
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import ml_dtypes
import numpy as np
import onnx
from tqdm.auto import tqdm

from embedrt.bundle.manifest import DEFAULT_ROUTE, FLOAT32, Manifest, Route, Variant, record_files
from embedrt.bundle.opened import BundleFiles
from embedrt.bundle.reports import Accuracy
from embedrt.engine import cpu
from embedrt.engine.placement import place
from embedrt.engine.session import plain_session
from embedrt.errors import QualityError, UnsupportedModelError
from embedrt.run.batches import make_batch
from embedrt.run.planning import plan
from embedrt.run.runner import Runner
from embedrt.tasks.graph_values import graph_tokens, graph_values
from embedrt.verify.parity import Item, measure
from embedrt_export.dtypes.draft import Draft, Writer
from embedrt_export.dtypes.float16.graphs import write_graph
from embedrt_export.dtypes.float16.on_cpu import LARGEST, on_cpu
from embedrt_export.dtypes.float16.write import NUMPY
from embedrt_export.dtypes.int8.texts import items_of, read_texts
from embedrt_export.families import FAMILIES
from embedrt_export.graph.builder import Layout
from embedrt_export.graph.data_file import DataFile
from embedrt_export.routes.modules import ModuleSpec, Transformer
from embedrt_export.routes.route import DraftGraph, build_draft

logger = logging.getLogger("embedrt.export")

_ALLOWED = {"float16": (0.9999, 0.999), "bfloat16": (0.999, 0.995)}
"""The lowest acceptable cosine similarity to float32, mean and minimum. float16 has 11 significant bits, bfloat16 8."""
# Values may be twice as large as over the calibration texts.
_HEADROOM = 2.0
# Tokens of a batch whose values are watched.
_WATCHED_TOKENS = 512


def write(draft: Draft, dtype: str) -> Manifest:
    """Add a variant in a narrow dtype to every route. All share one data file with their weights."""
    folder, manifest = draft.folder, draft.manifest
    routes = {}
    data_name = f"onnx/model_{dtype}.onnx_data"
    expansion = None if manifest.multi_vector is None else manifest.multi_vector.expansion
    attends = expansion is None or expansion.attend  # all tokens of a packed text attend to each other
    with DataFile(folder / data_name) as data, tempfile.TemporaryDirectory(dir=folder, prefix="draft-") as scratch:
        for name, route in manifest.routes.items():
            packs = FAMILIES[_family(draft, name, dtype)].packs and attends
            file = _file(route, name, dtype)
            build = partial(_build, draft, name)
            try:
                written = write_graph(folder / file, data, build, Path(scratch), dtype, packs=packs)
            except OverflowError as error:
                raise QualityError(f"{dtype}: {error}; {_remedy(dtype)}") from error
            variant = Variant(
                dtype, file, data_name, "onnxruntime", ("cuda",), written.layout, proof=None, packing=written.packing
            )
            proof = _proof(draft, Path(scratch), route, variant)
            for path in Path(scratch).iterdir():
                path.unlink()
            routes[name] = dataclasses.replace(
                route, variants=(*route.variants, dataclasses.replace(variant, proof=proof))
            )
    files = {file for route in routes.values() for variant in route.variants_in(dtype) for file in variant.files}
    return dataclasses.replace(manifest, routes=routes, files=manifest.files | record_files(folder, files))


def _build(draft: Draft, name: str, file: Path, data: DataFile, layout: Layout) -> DraftGraph:
    return build_draft(file, data, draft.spec.chains[name], draft.decisions, layout)


def _family(draft: Draft, name: str, dtype: str) -> str:
    """The family of a route's encoder.

    Raises:
        UnsupportedModelError: No graph in the dtype can be made of it.
    """
    first: ModuleSpec = draft.spec.chains[name][0]
    if not isinstance(first.settings, Transformer):
        raise UnsupportedModelError(
            f"{dtype}: static embeddings have no layers to speed up; leave {dtype} out, as float32 runs on CUDA too"
        )
    decision = draft.decisions.by_path[first.path]
    if decision.choice.via != "native":
        raise UnsupportedModelError(
            f"{dtype}: its graph is built from config and safetensors, but this export is via {decision.choice.via!r}; "
            f"leave {dtype} out, or use via='native'"
        )
    return decision.family


def _file(route: Route, name: str, dtype: str) -> str:
    path = PurePosixPath(route.variants_in(FLOAT32)[-1].file)
    # Route names have no dots, so this is no other route's file.
    return str(path.with_name(f"{path.stem}{'_' if name == DEFAULT_ROUTE else '.'}{dtype}.onnx"))


def _proof(draft: Draft, scratch: Path, route: Route, variant: Variant) -> Accuracy:
    """Measure the graph, in operators that have CPU kernels, on texts that are held back.

    Raises:
        QualityError: Its vectors differ too much from float32, or a value exceeds the dtype's range.
    """
    folder, manifest, dtype = draft.folder, draft.manifest, variant.dtype
    texts = items_of(read_texts(None) if draft.texts is None else draft.texts, manifest.task)
    graph, watched, weights = (scratch / file for file in ("cpu.onnx", "watched.onnx", "cpu.onnx_data"))
    with DataFile(weights) as data:
        on_cpu(folder / variant.file, watched, data, dtype, watched=True)
        names = on_cpu(folder / variant.file, graph, data, dtype)
    packing = variant.packing
    measured = dataclasses.replace(
        variant,
        file=graph.relative_to(folder).as_posix(),
        data=weights.relative_to(folder).as_posix(),
        devices=(),
        packing=None if packing is None else dataclasses.replace(packing, inputs=tuple(names), scratch=None),
    )
    files = manifest.files | record_files(folder, measured.files)
    exact = _runner(folder, manifest, route, FLOAT32)
    narrow = _runner(
        folder, dataclasses.replace(manifest, files=files), dataclasses.replace(route, variants=(measured,)), dtype
    )
    _require_range(watched, narrow, texts.calibration)
    method = f"weights and values in {dtype}, computed on a CPU with the rounding of {dtype}; {texts.origin}"
    expected = graph_values(exact, texts.held_back)
    report = measure(narrow, texts.held_back, expected, method, allowed=_ALLOWED[dtype])
    logger.info("%s: %s", dtype, report.accuracy)
    if not report.is_good:
        raise QualityError(f"{dtype}: {exact.name}: {report.accuracy}; {_remedy(dtype)}")
    return report


def _runner(folder: Path, manifest: Manifest, route: Route, dtype: str) -> Runner:
    placement = place(folder, route, cpu.DEVICE, dtype)
    return Runner(BundleFiles(folder), route, manifest, placement, prepack=False)


def _require_range(watched: Path, runner: Runner, texts: Sequence[Item]) -> None:
    """Compute texts, and require that no value comes near the end of the dtype's range.

    Args:
        watched: A graph with the outputs `LARGEST`.
        runner: The runner of the same graph without them.
        texts: Calibration texts.

    Raises:
        QualityError: One does; the message names the operator and its weights.
    """
    route, dtype = runner.route, runner.placement.dtype
    packing = runner.placement.variant.packing
    limit = float(ml_dtypes.finfo(NUMPY[dtype]).max) / _HEADROOM
    session = plain_session(watched)
    names = [value.name for value in session.get_outputs() if value.name not in route.outputs]
    tokens = graph_tokens(runner, texts)
    largest = dict.fromkeys(names, 0.0)
    batches = plan(tokens.lengths, token_budget=_WATCHED_TOKENS, max_rows=len(texts))
    for planned in tqdm(batches, desc=f"{dtype}: range of values", unit=" batches", leave=False, disable=None):
        batch = make_batch(tokens, planned.rows, planned.length, route.tokenization, packing)
        for name, value in zip(names, session.run(names, dict(batch.feeds)), strict=True):
            largest[name] = max(largest[name], float(np.nan_to_num(value, nan=np.inf)))
    over = {name: value for name, value in largest.items() if not value <= limit}
    if over:
        name, value = next(iter(over.items()))
        where = _described(watched, name)
        raise QualityError(
            f"{dtype}: {where} reaches {value:.3g} over the calibration texts; the range of {dtype} ends at "
            f"{limit * _HEADROOM:.5g}, and other texts may need twice as much; {_remedy(dtype)}"
        )


def _described(watched: Path, output: str) -> str:
    """Describe the value of a `LARGEST` output by its operator and weights."""
    model = onnx.load(watched, load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    value = next(node for node in model.graph.node if output == LARGEST.format(node.name))
    maker = next((node for node in model.graph.node if f"{value.name}/exact" in node.output), value)
    named = [name for name in maker.input if name in weights]
    return f"the result of {maker.op_type}{f' with {named[0]}' if named else ''}".removesuffix(".T")


def _remedy(dtype: str) -> str:
    return "export bfloat16 instead" if dtype == "float16" else f"leave {dtype} out"


def _nothing() -> None:
    """The graph is measured in CPU operators, so every machine can export it."""


WRITERS = {dtype: Writer(partial(write, dtype=dtype), _nothing, takes_texts=True) for dtype in ("float16", "bfloat16")}
