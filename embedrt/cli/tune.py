"""`embedrt tune`: the fastest settings on this machine, measured, shown or removed."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import click

import embedrt
from embedrt.cli import options
from embedrt.inputs.lines import read_lines
from embedrt.tune import result as tuned


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
@click.option("--show", is_flag=True, help="Print earlier measurements, and measure nothing.")
@click.option("--clear", is_flag=True, help="Remove earlier measurements.")
@click.option("--json", "as_json", is_flag=True, help="Print everything for programs.")
def tune(bundle: str, texts: Path | None, seconds: float | None, show: bool, clear: bool, as_json: bool) -> None:
    """Measure which settings are fastest on this machine.

    Times every dtype on every device of this machine, with several numbers of threads and token budgets, and keeps the
    choice beside the bundle, in embedrt.tuned.json. From then on the bundle runs with it where device, threads and
    max_tokens are left open, as long as CPU, software and bundle stay the same. Tuning never changes results: the
    dtype stays float32 unless you choose another one; dtype="auto" takes the fastest that is close enough to it. Keep
    the machine quiet meanwhile.

    Without --texts, the texts are those of the bundle's proof and random ones of mixed lengths, most of a few dozen
    words.
    """
    from embedrt.bundle.manifest import read_manifest
    from embedrt.hub.resolve import resolve

    if show and clear:
        raise click.UsageError("--show and --clear exclude each other.")
    if (show or clear) and (texts is not None or seconds is not None):
        raise ValueError("--show and --clear measure nothing: leave out --texts and --seconds")
    if clear and as_json:
        raise ValueError("--clear has nothing to show: leave out --json")
    folder = resolve(bundle, local_files_only=True)
    if clear:
        print(f"{folder}: {'tuning removed' if tuned.clear(folder) else 'was not tuned'}")
        return
    if show:
        found = tuned.find(folder, read_manifest(folder))
    else:
        items = None if texts is None else read_lines(texts)
        time = {} if seconds is None else {"seconds": seconds}
        found = tuned.Found(embedrt.tune(folder, items, show_progress_bar=sys.stderr.isatty(), **time))
    if as_json:
        print(json.dumps(_record(found), indent=2, ensure_ascii=False))
        return
    if found.tuning is not None:
        _print(found.tuning)
    if found.unused is not None or found.tuning is None:
        print(tuned.told(folder, found))


def _record(found: tuned.Found) -> dict[str, Any] | None:
    """The stored record, the choice that follows from it, and the reason if it is not used."""
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


def _print(tuning: tuned.Tuning) -> None:
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
