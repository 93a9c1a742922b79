"""`embedrt tune`: measurement of the fastest settings on this machine."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import click

import embedrt
from embedrt.cli import options, streams
from embedrt.inputs.lines import read_lines
from embedrt.tune.result import StoredTuning, Tuning, describe, describe_choice, read
from embedrt.tune.result import clear as clear_tuning


@click.command(
    epilog=options.examples(
        "embedrt tune bundle/",
        "embedrt tune bundle/ --texts lines.txt --seconds 120",
        "embedrt tune bundle/ --show",
        "embedrt tune bundle/ --clear",
    )
)
@options.bundle
@options.texts
@click.option("--seconds", type=float, metavar="N", help="Time to spend, roughly.  [default: 60]")
@click.option("--show", is_flag=True, help="Print the stored measurements without measuring.")
@click.option("--clear", is_flag=True, help="Remove the stored measurements.")
@click.option("--json", "as_json", is_flag=True, help="Print all measurements as JSON.")
def tune(bundle: str, texts: Path | None, seconds: float | None, show: bool, clear: bool, as_json: bool) -> None:
    """Measure which settings are fastest on this machine.

    Every dtype is timed on every device, with several numbers of threads and token budgets, and the choice is stored
    beside the bundle, in embedrt.tuned.json. It applies where device, threads and max_tokens are left open, as long as
    CPU, software and bundle stay the same. Tuning never changes results: the dtype stays float32 unless you choose
    another one; dtype="auto" takes the fastest that is accurate enough. Keep the machine idle while it runs.

    Without --texts, the texts are the parity texts of the bundle and random ones of mixed lengths, mostly of a few
    dozen words.
    """
    from embedrt.bundle.manifest import read_manifest
    from embedrt.hub.resolve import resolve

    if show and clear:
        raise click.UsageError("--show and --clear exclude each other.")
    if (show or clear) and (texts is not None or seconds is not None):
        raise ValueError("--show and --clear measure nothing: leave out --texts and --seconds")
    if clear and as_json:
        raise ValueError("--clear has nothing to show: leave out --json")
    if show or as_json:
        streams.require_output()
    folder = resolve(bundle, local_files_only=True)
    if clear:
        streams.note(f"{folder}: {'tuning removed' if clear_tuning(folder) else 'was not tuned'}")
        return
    if show:
        stored = read(folder, read_manifest(folder))
    else:
        items = None if texts is None else read_lines(texts)
        time = {} if seconds is None else {"seconds": seconds}
        stored = StoredTuning(embedrt.tune(folder, items, show_progress_bar=sys.stderr.isatty(), **time))
    if as_json:
        print(json.dumps(_record(stored), indent=2, ensure_ascii=False))
        return
    if stored.tuning is not None:
        _print(stored.tuning)
    if stored.unused is not None or stored.tuning is None:
        streams.note(describe(folder, stored))


def _record(stored: StoredTuning) -> dict[str, Any] | None:
    """The stored record, the choices of "auto", and the reason if it is not used."""
    tuning = stored.tuning
    if tuning is None:
        return None if stored.unused is None else {"unused": stored.unused}
    devices = {setting.dtype: tuning.device_for(setting.dtype) for setting in tuning.settings}
    return {
        **dataclasses.asdict(tuning),
        "auto_dtype": tuning.dtype_for(None),
        "auto_device": devices,
        "unused": stored.unused,
    }


def _print(tuning: Tuning) -> None:
    chosen = set(tuning.settings)
    streams.note("  dtype      device    threads  tokens   texts/s  one text, ms  cosine to float32, mean / min")
    rows = [*tuning.settings, *tuning.others]
    for row in sorted(rows, key=lambda row: (row.dtype, row.device, -row.texts_per_second)):
        streams.note(
            f"{'*' if row in chosen else ' '} {row.dtype:9}  {row.device:8}  {row.threads:7}  {row.max_tokens:6}  "
            f"{row.texts_per_second:8.1f}  {row.one_text_ms:12.2f}  {row.mean_cosine:.6f} / {row.min_cosine:.6f}"
        )
    for what, why in tuning.excluded.items():
        streams.note(f"excluded: {what}: {why}")
    streams.note(f"chosen, over {tuning.texts} texts: {describe_choice(tuning)}")
