"""`embedrt diff`: comparison of the vectors of two bundles, dtypes or devices."""

from pathlib import Path

import click
import numpy as np

import embedrt
from embedrt.cli import options, streams
from embedrt.inputs.lines import read_lines


@click.command(
    epilog=options.examples(
        "embedrt diff before/ after/",
        "embedrt diff bundle/ bundle/ --device cpu,cuda",
        "embedrt diff bundle/ bundle/ --dtype float32,int8",
        "embedrt diff before/ after/ --texts lines.txt",
    )
)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@options.texts
@options.task
@click.option(
    "--dtype",
    metavar="DTYPE[,DTYPE]",
    help="Dtype of both bundles, or of A and B.  [default: float32 if the bundle has it]",
)
@click.option(
    "--device", default="auto", show_default=True, metavar="DEVICE[,DEVICE]", help="Device of both, or of A and B."
)
@click.option("--worst", type=int, default=5, show_default=True, metavar="N", help="Number of worst texts to show.")
def diff(a: str, b: str, texts: Path | None, task: str | None, dtype: str | None, device: str, worst: int) -> None:
    """Compare the vectors of two bundles, dtypes or devices.

    A and B are folders, or names in the local store; both may be the same. Without --texts, the parity texts of A are
    used. Each text is also a query against all other texts, once with the vectors of A and once with those of B.
    """
    from embedrt.verify.bundle import bundled_texts, check_diff_texts

    streams.require_output()
    dtypes = (None, None) if dtype is None else _pair(dtype, "--dtype")
    given = None if texts is None else check_diff_texts(read_lines(texts))
    first, second = (
        embedrt.Embedder(name, on, dtype=number_format, local_files_only=True)
        for name, on, number_format in zip((a, b), _pair(device, "--device"), dtypes, strict=True)
    )
    items = bundled_texts(first) if given is None else given
    found = embedrt.diff(first, second, items, task=task)
    same = first.manifest.fingerprint == second.manifest.fingerprint
    for label, model in (("A", first), ("B", second)):
        print(f"{label}             {model.manifest.name}, {model.dtype} on {model.engine}")
    print(f"fingerprints  {'equal' if same else 'different'}")
    print(f"texts         {len(items)}")
    print(f"cosine        min {found.cosine.min():.6f}, mean {found.cosine.mean():.6f}")
    print(f"max error     {found.max_abs_error.max():.1e} in a coordinate")
    print(f"norms         differ by up to {found.norm_error.max():.1e}")
    print(f"top 10        {found.overlap.mean():.2%} the same; first one changed for {found.first_changed.mean():.2%}")
    for i in np.argsort(found.cosine, kind="stable")[: max(worst, 0)]:
        print(
            f"  cosine {found.cosine[i]:.6f}, error {found.max_abs_error[i]:.1e}, top 10 {found.overlap[i]:.0%}: "
            f"texts[{i}] = {items[i][:60]!r}"
        )


def _pair(value: str, name: str) -> tuple[str, str]:
    """Split an option into one value per bundle; a single value is for both."""
    parts = value.split(",")
    if len(parts) > 2 or not all(parts):
        raise ValueError(f"{name}: expected one value, or two separated by a comma, got {value!r}")
    return parts[0], parts[-1]
