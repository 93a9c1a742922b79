"""`embedrt list` and `embedrt remove`: the bundles in the local store."""

import sys

import click

from embedrt.bundle.facts import width
from embedrt.bundle.manifest import Manifest
from embedrt.cli import options, streams
from embedrt.hub import local


@click.command("list", epilog=options.examples("embedrt list"))
def list_bundles() -> None:
    """List the bundles in the local store."""
    streams.require_output()
    bundles = local.stored()
    if not bundles:
        print(f"the store {local.home()} is empty; `embedrt export SOURCE` puts a bundle there", file=sys.stderr)
    for name, manifest in bundles.items():
        if isinstance(manifest, Manifest):
            print(f"{name:50} {width(manifest):>20}  {', '.join(manifest.dtypes)}")
        else:
            print(f"{name:50} damaged: {manifest}")


@click.command(epilog=options.examples("embedrt remove org/model", "embedrt remove org/model@v2"))
@click.argument("name", metavar="NAME")
def remove(name: str) -> None:
    """Delete a bundle from the local store.

    NAME is a name that `embedrt list` shows.
    """
    streams.note(f"removed {local.remove(name)}")
