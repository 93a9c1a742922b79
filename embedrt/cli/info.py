"""`embedrt info`: the facts of a bundle."""

import dataclasses
import json

import click

from embedrt.bundle.manifest import DEFAULT_ROUTE, Manifest, Route, read_manifest
from embedrt.cli import options


@click.command(epilog=options.examples("embedrt info bundle/", "embedrt info org/model --json"))
@options.bundle
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest.")
def info(bundle: str, as_json: bool) -> None:
    """Show the facts of a bundle.

    BUNDLE is a folder, or a name in the local store. The files are not checked; `embedrt verify` does that.
    """
    from embedrt.hub.resolve import resolve
    from embedrt.tune import result as tuned

    folder = resolve(bundle, local_files_only=True)
    manifest = read_manifest(folder)
    if as_json:
        print(json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False))
        return
    for label, value in [*_facts(manifest), ("tuned", tuned.summary(folder, manifest))]:
        print(f"{label:16} {value}")


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    source, made = manifest.source, manifest.made_with
    size = sum(record.size for record in manifest.files.values())
    return [
        ("name", manifest.name),
        ("source", f"{source.kind} {source.id}" + (f" at {source.revision}" if source.revision else "")),
        *(fact for name, route in manifest.routes.items() for fact in _route_facts(name, route)),
        (
            "dimensions",
            str(manifest.dim) + (f", truncated to {manifest.truncate_dim}" if manifest.truncate_dim else ""),
        ),
        ("prompts", ", ".join(f"{name}: {text!r}" for name, text in manifest.prompts.items()) or "none"),
        ("int8 ranges", "not calibrated" if manifest.vector_ranges is None else "calibrated"),
        ("similarity", manifest.similarity_fn_name or "cosine, by default"),
        ("size", f"{size / 1e6:.1f} MB in {len(manifest.files) + 1} files"),
        ("fingerprint", manifest.fingerprint),
        ("made with", ", ".join(f"{name} {number}" for name, number in made.items())),
    ]


def _route_facts(name: str, route: Route) -> list[tuple[str, str]]:
    facts = [
        ("architecture", f"{route.architecture}, {route.via} graph"),
        ("modules", " > ".join(module.summary for module in route.modules)),
        ("normalized", "yes" if route.normalized else "no"),
        ("max tokens", "no limit" if route.max_seq_length is None else str(route.max_seq_length)),
        *((f"parity {dtype}", report.summary) for dtype, report in route.parity.items()),
        *((f"quality {dtype}", report.summary) for dtype, report in route.quality.items()),
    ]
    return [(of_route(label, name), fact) for label, fact in facts]


def of_route(label: str, name: str) -> str:
    """A label of one route; the only route of most bundles needs no name."""
    return label if name == DEFAULT_ROUTE else f"{label} ({name})"
