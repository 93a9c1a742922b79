"""The dtype int8 as a writer: int8 graphs for every route, quantized from its float32 graph and evaluated."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from embedrt.bundle.manifest import FLOAT32, Manifest, Route, Variant, record_files
from embedrt.bundle.opened import BundleFiles
from embedrt.bundle.reports import Accuracy
from embedrt.engine import cpu
from embedrt.engine.int8_saturation import exact_config
from embedrt.engine.placement import place
from embedrt.run.runner import Runner
from embedrt.tasks.graph_values import graph_values
from embedrt.types import Vectors
from embedrt.verify.parity import Item, measure
from embedrt_export.dtypes.draft import Draft, Writer
from embedrt_export.dtypes.int8.quantize import DATA, DTYPE, quantize
from embedrt_export.dtypes.int8.texts import items_of, read_texts
from embedrt_export.graph.data_file import DataFile


def write(draft: Draft) -> Manifest:
    """Add int8 variants to every route. All share one data file with their weights."""
    folder, manifest = draft.folder, draft.manifest
    texts = items_of(read_texts(None) if draft.texts is None else draft.texts, manifest.task)
    routes = {}
    with DataFile(folder / DATA) as data:
        for name, route in manifest.routes.items():
            placement = place(folder, route, cpu.DEVICE, FLOAT32)
            exact = Runner(BundleFiles(folder), route, manifest, placement, prepack=False)
            evaluate = partial(
                _evaluated, folder, manifest, route, texts.held_back, graph_values(exact, texts.held_back)
            )
            variants = quantize(folder, exact, texts, data, evaluate)
            routes[name] = dataclasses.replace(route, variants=(*route.variants, *variants))
    written = {file for route in routes.values() for variant in route.variants_in(DTYPE) for file in variant.files}
    return dataclasses.replace(manifest, routes=routes, files=manifest.files | record_files(folder, written))


def _evaluated(
    folder: Path,
    manifest: Manifest,
    route: Route,
    texts: Sequence[Item],
    expected: Vectors,
    variant: Variant,
    method: str,
) -> Accuracy:
    """Encode texts with a new variant of a route and compare the vectors with those in float32."""
    files = manifest.files | record_files(folder, variant.files)
    only = dataclasses.replace(route, variants=(variant,))
    placement = place(folder, only, cpu.DEVICE, DTYPE)
    runner = Runner(BundleFiles(folder), only, dataclasses.replace(manifest, files=files), placement)
    return measure(runner, texts, expected, method)


def require() -> None:
    """Raise a DeviceError if int8 kernels saturate on this CPU."""
    exact_config()


WRITER = Writer(write, require, takes_texts=True)
