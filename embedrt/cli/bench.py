"""`embedrt bench`: comparison with other embedding libraries on this machine."""

import json
import shlex
import sys
from pathlib import Path

import click

from embedrt.cli import options, streams


@click.command(
    epilog=options.examples(
        "embedrt bench bundle/",
        "embedrt bench bundle/ --texts lines.txt --peers none",
        "embedrt bench org/model --dtype float32,int8 --peers sentence-transformers,openvino",
        "embedrt bench ./my-model --output results/ --plot speed.svg",
        "embedrt bench bundle/ --scaling --quick",
    )
)
@click.argument("model", metavar="MODEL")
@click.option("--texts", type=options.FILE, metavar="FILE", help="Your texts, one per line, UTF-8.")
@click.option(
    "--dtype",
    metavar="DTYPE[,DTYPE]",
    help="Dtypes of embedrt.  [default: those of the bundle that the device runs; float32 and int8 of a model]",
)
@click.option("--device", default="cpu", show_default=True, metavar="DEVICE[,DEVICE]", help="Devices of embedrt.")
@click.option(
    "--peers",
    default="auto",
    show_default=True,
    metavar="NAME[,NAME]",
    help="Other libraries: auto for those that are installed, all to include slow ones, none, or names.",
)
@click.option("--source", metavar="SOURCE", help="Model that the bundle was made of, for peers that load it.")
@click.option("--rounds", type=int, metavar="N", help="Rounds of each workload.  [default: 3]")
@click.option("--threads", type=int, metavar="N", help="Cores of each engine.  [default: all that may be used]")
@click.option("--scaling", is_flag=True, help="Also measure throughput with 1, 2, 4, ... cores.")
@click.option("--quick", is_flag=True, help="One short round, to try the command.")
@click.option(
    "--output",
    type=options.FILE,
    metavar="PATH",
    help="Write the results as JSON: a .json file, or a folder for DATE-MACHINE.json.",
)
@click.option("--plot", type=options.FILE, metavar="FILE.svg", help="Draw the throughput of each engine.")
def bench(
    model: str,
    texts: Path | None,
    dtype: str | None,
    device: str,
    peers: str,
    source: str | None,
    rounds: int | None,
    threads: int | None,
    scaling: bool,
    quick: bool,
    output: Path | None,
    plot: Path | None,
) -> int:
    """Compare embedrt with other embedding libraries on this machine.

    MODEL is a bundle, a model folder, package:NAME, a name in the local store, or a hub id; a model without a bundle is
    exported to a temporary folder. Each engine has a process of its own, and they take turns in every round. Measured
    are throughput, latency of one text, time from process start to the first vector, peak memory, and the accuracy of
    the vectors. The reference is sentence-transformers in float32 if it is installed, else embedrt in float32.

    Without --texts, the texts are passages of Python's documentation: short, mixed and long ones. Keep the machine
    idle: rounds that other programs disturb are marked. The exit status is 1 if an engine fails.
    """
    from embedrt.bench.plot import draw
    from embedrt.bench.record import file_name
    from embedrt.bench.run import Request
    from embedrt.bench.run import bench as measure
    from embedrt.bench.table import lines

    streams.require_output()
    _check(output, plot)
    request = Request(
        model,
        source=source,
        texts=texts,
        dtypes=None if dtype is None else dtype.split(","),
        devices=device.split(","),
        peers=peers.split(","),
        rounds=rounds,
        threads=threads,
        scaling=scaling,
        is_quick=quick,
        command=shlex.join(["embedrt", *sys.argv[1:]]),
    )
    record = measure(request, show_progress_bar=sys.stderr.isatty())
    print("\n".join(lines(record)))
    if output is not None:
        path = output if output.suffix == ".json" else output / file_name(record["date"], record["machine"]["name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"written: {path}")
    if plot is not None:
        plot.write_text(draw([record], scaling=True), encoding="utf-8")
        print(f"written: {plot}")
    return int(any(engine["error"] for engine in record["engines"].values()))


def _check(output: Path | None, plot: Path | None) -> None:
    """Check that the results can be written, before minutes are spent on them."""
    if plot is not None and plot.suffix != ".svg":
        raise ValueError(f"--plot: expected a file that ends with .svg, got {plot}")
    if plot is not None and not plot.parent.is_dir():
        raise ValueError(f"--plot: {plot.parent} is not a folder")
    if output is not None and output.suffix != ".json" and output.exists() and not output.is_dir():
        raise ValueError(f"--output: expected a .json file or a folder, got {output}")
