"""`embedrt info`: facts about a bundle."""

import dataclasses
import json

import click

from embedrt.bundle.facts import facts, proofs
from embedrt.bundle.manifest import read_manifest
from embedrt.cli import options, streams


@click.command(epilog=options.examples("embedrt info bundle/", "embedrt info org/model --json"))
@options.bundle
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest.")
def info(bundle: str, as_json: bool) -> None:
    """Show facts about a bundle.

    BUNDLE is a folder, or a name in the local store. The files are not checked; use `embedrt verify` for that.
    """
    from embedrt.hub.resolve import resolve
    from embedrt.tune.result import summary

    streams.require_output()
    folder = resolve(bundle, local_files_only=True)
    manifest = read_manifest(folder)
    if as_json:
        print(json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False))
        return
    lines = [("name", manifest.name), *facts(manifest), *proofs(manifest), ("tuned", summary(folder, manifest))]
    for label, value in lines:
        print(f"{label:16} {value}")
