"""The dtype float32: the portable graph, and the same graph with fused layers for CPUs."""

import dataclasses
import logging
from pathlib import Path, PurePosixPath

import onnx

from embedrt.bundle.manifest import DEFAULT_ROUTE, FLOAT32, Manifest, Route, Variant, record_files
from embedrt.bundle.opened import BundleFiles
from embedrt.engine import cpu
from embedrt.engine.placement import place
from embedrt.engine.session import LARGE_BYTES
from embedrt.run.runner import Runner
from embedrt.verify.parity import compare, save_reference
from embedrt_export.dtypes.draft import Draft, Writer
from embedrt_export.families import is_native
from embedrt_export.graph.fuse_cpu import OnCpu, fuse
from embedrt_export.graph.fuse_linear import convolve
from embedrt_export.graph.opsets import STANDARD
from embedrt_export.proof.reference import Subject, find_reference
from embedrt_export.proof.texts import parity_items
from embedrt_export.routes.modules import Transformer

logger = logging.getLogger("embedrt.export")


def write(draft: Draft) -> Manifest:
    """Add the CPU graph to every route, verify both graphs, and save the texts and vectors of the proof."""
    routes, files = {}, dict(draft.manifest.files)
    for name, route in draft.manifest.routes.items():
        (portable,) = route.variants_in(FLOAT32)
        variants = [*_fused(draft.folder, name, portable, route.position_limit), portable]
        variants = [*_convolved(draft.folder, name, variants[0], portable), *variants]
        files |= record_files(draft.folder, {file for variant in variants for file in variant.files} - set(files))
        manifest = dataclasses.replace(draft.manifest, files=files)
        routes[name] = _proved(dataclasses.replace(draft, manifest=manifest), name, route, variants)
        files |= record_files(draft.folder, [route.parity_texts, route.parity_vectors])
    return dataclasses.replace(draft.manifest, routes=routes, files=files)


def _fused(folder: Path, route: str, portable: Variant, longest: int | None) -> list[Variant]:
    """Write the graph with fused attention over the same weights, if the graph has attention that can be fused."""
    path = PurePosixPath(portable.file)
    # Route names have no dots, so this is no other route's file.
    file = str(path.with_name(f"{path.stem}_cpu.onnx" if route == DEFAULT_ROUTE else f"{path.stem}.cpu.onnx"))
    fused = fuse(onnx.load(folder / portable.file, load_external_data=False), OnCpu(longest))
    if fused is None:
        return []
    onnx.save_model(fused, folder / file)
    onnx.checker.check_model(folder / file, full_check=True)
    is_standard = {one.domain for one in fused.opset_import} <= STANDARD
    operators = portable.operators if is_standard else "onnxruntime"
    return [dataclasses.replace(portable, file=file, operators=operators, devices=("cpu",))]


def _convolved(folder: Path, route: str, best: Variant, portable: Variant) -> list[Variant]:
    """Write the best graph with its feed-forward layers as convolutions, if it has any; CPUs of x86-64 have kernels."""
    if portable.data is None or (folder / portable.data).stat().st_size >= LARGE_BYTES:
        return []  # a session copies the weights of convolutions, even where it packs no others
    path = PurePosixPath(portable.file)
    file = str(path.with_name(f"{path.stem}_cpu_x86.onnx" if route == DEFAULT_ROUTE else f"{path.stem}.cpu_x86.onnx"))
    built = convolve(onnx.load(folder / best.file, load_external_data=False))
    if built is None:
        return []
    onnx.save_model(built, folder / file)
    onnx.checker.check_model(folder / file, full_check=True)
    return [dataclasses.replace(best, file=file, devices=(cpu.X86,))]


def _proved(draft: Draft, name: str, route: Route, variants: list[Variant]) -> Route:
    """Compare every graph with the reference."""

    def runner(variant: Variant) -> Runner:
        # Proved on this machine, even if other CPUs would take another graph.
        only = dataclasses.replace(route, variants=(dataclasses.replace(variant, devices=()),))
        placement = place(draft.folder, only, cpu.DEVICE, FLOAT32)
        return Runner(BundleFiles(draft.folder), only, draft.manifest, placement, prepack=False)

    texts = parity_items(draft.manifest.task, route.max_seq_length)
    first = draft.spec.chains[name][0].settings
    native = not isinstance(first, Transformer) or is_native(first.config, first.architecture)
    subject = Subject(
        folder=draft.spec.folder,
        manifest=draft.manifest,
        runner=runner(variants[-1]),
        task=draft.manifest.task_of(name),
        texts=texts,
        is_native=native,
    )
    reference = find_reference(draft.reference, subject)
    logger.info("comparing the vectors of %d texts with %s", len(texts), reference.name)
    proved = []
    for variant in variants:
        report = compare(runner(variant), texts, reference.vectors, reference.name, independent=reference.independent)
        proved.append(dataclasses.replace(variant, proof=report))
    save_reference(draft.folder, route, texts, reference.vectors)
    return dataclasses.replace(route, variants=tuple(proved))


WRITER = Writer(write, require=lambda: None, takes_texts=False)
