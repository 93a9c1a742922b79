"""Options that several commands share, and the layout of examples in help texts."""

from pathlib import Path

import click

from embedrt import DEFAULT_MODEL

FILE = click.Path(path_type=Path)

bundle = click.argument("bundle", metavar="BUNDLE")
model = click.option(
    "-m",
    "--model",
    metavar="MODEL",
    help=f"Bundle folder or model name.  [default: EMBEDRT_MODEL, else {DEFAULT_MODEL}]",
)
device = click.option(
    "--device",
    metavar="DEVICE",
    callback=lambda context, option, value: _devices(value),
    help="auto, cpu, cuda, cuda:INDEX, coreml, mps, openvino, openvino:GPU or openvino:NPU; or several GPUs that share "
    "the work, as in cuda:0,cuda:1.  [default: auto]",
)
gpu_mem_limit = click.option(
    "--gpu-mem-limit",
    metavar="BYTES",
    help="Upper bound of what CUDA's arena allocates on each GPU, such as 20GB or 20GiB.  [default: no bound]",
)
threads = click.option(
    "--threads", type=int, metavar="N", help="Threads to use.  [default: the cores that this process may use]"
)
dtype = click.option(
    "--dtype",
    metavar="DTYPE",
    help="float32, float16, bfloat16, int8, or auto: the fastest that `embedrt tune` found accurate enough.  "
    "[default: float32]",
)
task = click.option(
    "--task",
    metavar="TASK",
    help="Kind of the texts, such as query or document, for models that treat them differently.",
)
_TEXTS = "Texts, one per line, UTF-8."
texts = click.option("--texts", type=FILE, metavar="FILE", help=_TEXTS)
required_texts = click.option("--texts", type=FILE, metavar="FILE", required=True, help=_TEXTS)
prompt_name = click.option("--prompt-name", metavar="NAME", help="Prompt of the model to put before every text.")


def _devices(value: str | None) -> str | list[str] | None:
    """The name of a device, or several names that a comma separates."""
    return value if value is None or "," not in value else value.split(",")


def examples(*commands: str) -> str:
    """The epilog of a help text, one example per line."""
    return "\n".join(["\b", "Examples:", *(f"  {command}" for command in commands)])
