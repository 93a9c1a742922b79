"""`embedrt verify`: check of a bundle's files and vectors on this machine."""

from typing import Literal

import click

import embedrt
from embedrt.bundle.facts import of_route
from embedrt.cli import options, streams
from embedrt.model import Model


@click.command(
    epilog=options.examples(
        "embedrt verify bundle/",
        "embedrt verify bundle/ --dtype int8 --device cpu",
        "embedrt verify bundle/ --reference sentence-transformers",
        "embedrt verify bundle/ --reference sentence-transformers --source ./my-model",
    )
)
@options.bundle
@click.option(
    "--reference",
    type=click.Choice(["bundle", "sentence-transformers"]),
    default="bundle",
    show_default=True,
    help="Source of the reference vectors.",
)
@click.option("--source", metavar="SOURCE", help="Model for the reference.  [default: the source of the bundle]")
@options.device
@options.dtype
@options.threads
@options.gpu_mem_limit
def verify(
    bundle: str,
    reference: Literal["bundle", "sentence-transformers"],
    source: str | None,
    device: str | list[str] | None,
    dtype: str | None,
    threads: int | None,
    gpu_mem_limit: str | None,
) -> None:
    """Check a bundle's files, and its vectors on this machine.

    The vectors are compared with the reference vectors in the bundle, or with those of sentence-transformers, which
    loads the original model again. It must be installed here, and the extra `export` too.
    """
    from embedrt.verify.bundle import check_reference

    streams.require_output()
    check_reference(reference, source)
    model = Model(bundle, device, dtype=dtype, threads=threads, gpu_mem_limit=gpu_mem_limit, local_files_only=True)
    reports = embedrt.verify(model, reference=reference, source=source)
    print(f"files: {len(model.manifest.files)} as listed")
    for name, report in reports.items():
        print(f"{of_route(model.dtype, name)}: {report.summary}")
