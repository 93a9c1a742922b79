"""What each command of `embedrt` does, given its parsed options. Each returns the exit status."""

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np

import embedrt
from embedrt.bundle.facts import facts, of_route, proofs
from embedrt.bundle.manifest import Manifest, read_manifest
from embedrt.bundle.reports import ParityReport, QualityReport
from embedrt.embedder import Embedder
from embedrt.hub import local as store
from embedrt.tune import result as tuned


def export(options: argparse.Namespace) -> int:
    """Exports, and prints the bundle's folder and its proof."""
    from embedrt_export import export

    logging.getLogger("embedrt.export").setLevel(logging.INFO)
    folder = export(
        options.source,
        options.output,
        name=options.name,
        revision=options.revision,
        dtype=options.dtype.split(","),
        calibration_texts=options.calibration_texts,
        overwrite=options.overwrite,
        via=options.via,
        task=options.task,
        onnx_file=options.onnx_file,
        reference=options.reference,
    )
    print(folder)
    for label, value in proofs(read_manifest(folder)):
        print(f"{label}: {value}")
    return 0


def encode(options: argparse.Namespace) -> int:
    """Encodes, and prints the vectors or writes them to a file."""
    if options.output is not None and not options.output.parent.is_dir():
        raise ValueError(f"--output: {options.output.parent} is not a folder")
    texts = [line.rstrip("\r\n") for line in sys.stdin] if options.texts == ["-"] else options.texts
    embedder = Embedder(
        options.model or embedrt.default_model(),
        options.device,
        dtype=options.dtype,
        threads=options.threads,
    )
    vectors = embedder.encode(
        texts,
        options.prompt_name,
        options.prompt,
        show_progress_bar=options.output is not None and sys.stderr.isatty(),
        normalize_embeddings=options.normalize,
        truncate_dim=options.truncate_dim,
        on_truncation=options.on_truncation,
    )
    if options.output is None:
        for vector in vectors:
            print(json.dumps([float(str(x)) for x in vector]))
    else:
        with options.output.open("wb") as file:
            np.save(file, vectors, allow_pickle=False)
        print(f"{options.output}: float32 {vectors.shape[0]} x {vectors.shape[1]}", file=sys.stderr)
    return 0


def info(options: argparse.Namespace) -> int:
    """Prints what a bundle is."""
    folder = store.resolve(options.bundle, local_files_only=True)
    manifest = read_manifest(folder)
    if options.json:
        print(json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False))
        return 0
    for label, value in [
        ("name", manifest.name),
        *facts(manifest),
        *proofs(manifest),
        ("tuned", tuned.summary(folder, manifest)),
    ]:
        print(f"{label:16} {value}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Checks a bundle, and prints how far its vectors are from the reference."""
    from embedrt.verify.parity import verify

    embedder = Embedder(
        store.resolve(options.bundle, local_files_only=True),
        options.device,
        dtype=options.dtype,
        threads=options.threads,
    )
    print(f"files: {len(embedder.manifest.files)} as listed")
    reports: Mapping[str, ParityReport | QualityReport]
    if options.reference == "bundle":
        reports = verify(embedder)
    else:
        from embedrt_export.proof.reference import verify_with_sentence_transformers

        reports = verify_with_sentence_transformers(embedder, options.source)
    for name, report in reports.items():
        print(f"{of_route(embedder.dtype, name)}: {report.summary}")
    return 0


def diff(options: argparse.Namespace) -> int:
    """Prints how far the vectors of two bundles are apart."""
    from embedrt.verify.difference import difference
    from embedrt.verify.parity import parity_texts

    a, b = (
        Embedder(store.resolve(name, local_files_only=True), device, dtype=dtype)
        for name, device, dtype in zip(
            (options.a, options.b),
            _pair(options.device, "--device"),
            (None, None) if options.dtype is None else _pair(options.dtype, "--dtype"),
            strict=True,
        )
    )
    texts = parity_texts(a) if options.texts is None else options.texts.read_text("utf-8").splitlines()
    found = difference(*(model.encode(texts, prompt="", truncate_dim=None, task=options.task) for model in (a, b)))
    same = a.manifest.fingerprint == b.manifest.fingerprint
    print(f"A             {a.manifest.name}, {a.dtype} on {a.engine}")
    print(f"B             {b.manifest.name}, {b.dtype} on {b.engine}")
    print(f"fingerprints  {'equal' if same else 'different'}")
    print(f"texts         {len(texts)}")
    print(f"cosine        min {found.cosine.min():.6f}, mean {found.cosine.mean():.6f}")
    print(f"max error     {found.max_abs_error.max():.1e} in a coordinate")
    print(f"norms         differ by up to {found.norm_error.max():.1e}")
    print(f"top 10        {found.overlap.mean():.2%} the same; first one changed for {found.first_changed.mean():.2%}")
    for i in np.argsort(found.cosine, kind="stable")[: max(options.worst, 0)]:
        print(
            f"  cosine {found.cosine[i]:.6f}, error {found.max_abs_error[i]:.1e}, top 10 {found.overlap[i]:.0%}: "
            f"texts[{i}] = {texts[i][:60]!r}"
        )
    return 0


def calibrate(options: argparse.Namespace) -> int:
    """Measures ranges for int8 vectors over lines of a file, and writes them into the bundle."""
    from embedrt.tune.ranges import calibrate

    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit: expected a positive integer, got {options.limit}")
    with options.texts.open(encoding="utf-8") as lines:
        texts = [line.rstrip("\n") for line in islice(lines, options.limit)]
    folder = calibrate(
        options.bundle,
        texts,
        options.prompt_name,
        task=options.task,
        device=options.device,
        threads=options.threads,
        show_progress_bar=sys.stderr.isatty(),
    )
    print(f"{folder}: calibrated with {len(texts)} texts")
    return 0


def tune(options: argparse.Namespace) -> int:
    """Measures what is fastest on this machine and keeps it at the bundle; or shows or removes what is kept."""
    from embedrt.tune.search import SECONDS, tune

    if (options.show or options.clear) and (options.texts is not None or options.seconds is not None):
        raise ValueError("--show and --clear measure nothing: leave out --texts and --seconds")
    if options.clear and options.json:
        raise ValueError("--clear has nothing to show: leave out --json")
    folder = store.resolve(options.bundle, local_files_only=True)
    if options.clear:
        print(f"{folder}: {'tuning removed' if tuned.clear(folder) else 'was not tuned'}")
        return 0
    if options.show:
        found = tuned.find(folder, read_manifest(folder))
    else:
        texts = None if options.texts is None else options.texts.read_text("utf-8").splitlines()
        seconds = SECONDS if options.seconds is None else options.seconds
        found = tuned.Found(tune(folder, texts, seconds=seconds, show_progress_bar=sys.stderr.isatty()))
    if options.json:
        print(json.dumps(_tuning_record(found), indent=2, ensure_ascii=False))
    elif found.tuning is not None:
        _print_tuning(found.tuning)
    if not options.json and (found.unused is not None or found.tuning is None):
        print(tuned.told(folder, found))
    return 0


def _tuning_record(found: tuned.Found) -> dict[str, Any] | None:
    """For programs: the stored record, what it chooses, and why it is not used if so."""
    tuning = found.tuning
    if tuning is None:
        return None if found.unused is None else {"unused": found.unused}
    devices = {way.dtype: tuning.device_for(way.dtype) for way in tuning.settings}
    return {
        **dataclasses.asdict(tuning),
        "auto_dtype": tuning.dtype_for(None),
        "auto_device": devices,
        "unused": found.unused,
    }


def _print_tuning(tuning: tuned.Tuning) -> None:
    kept = set(tuning.settings)
    print("  dtype      device    threads  tokens   texts/s  one text, ms  cosine to float32, mean / min")
    ways = [*tuning.settings, *tuning.others]
    for way in sorted(ways, key=lambda way: (way.dtype, way.device, -way.texts_per_second)):
        print(
            f"{'*' if way in kept else ' '} {way.dtype:9}  {way.device:8}  {way.threads:7}  {way.max_tokens:6}  "
            f"{way.texts_per_second:8.1f}  {way.one_text_ms:12.2f}  {way.mean_cosine:.6f} / {way.min_cosine:.6f}"
        )
    for what, why in tuning.excluded.items():
        print(f"left out: {what}: {why}")
    print(f"chosen, over {tuning.texts} texts: {tuned.choice(tuning)}")


def _pair(value: str, name: str) -> tuple[str, str]:
    """One value for both sides, or one for each."""
    parts = value.split(",")
    if len(parts) > 2 or not all(parts):
        raise ValueError(f"{name}: expected one value or two with a comma between them, got {value!r}")
    return parts[0], parts[-1]


def list_bundles(_: argparse.Namespace) -> int:
    """Prints the bundles in the store."""
    found = store.stored()
    if not found:
        print(f"the store {store.home()} is empty; `embedrt export SOURCE` puts a bundle there", file=sys.stderr)
    for name, manifest in found.items():
        if isinstance(manifest, Manifest):
            print(f"{name:50} {manifest.dim:5} dimensions  {', '.join(manifest.dtypes)}")
        else:
            print(f"{name:50} damaged: {manifest}")
    return 0


def remove(options: argparse.Namespace) -> int:
    """Deletes a bundle from the store."""
    print(f"removed {store.remove(options.name)}")
    return 0


def show_doctor(_: argparse.Namespace) -> int:
    """Prints what the machine has, and what is wrong with it."""
    from embedrt.cli import doctor

    return 0 if doctor.report() else 1
