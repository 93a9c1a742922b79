"""Export by optimum-onnx, in a process and usually in an environment of its own.

optimum-onnx needs torch, and older releases of transformers and huggingface_hub than embedrt. So it is not an extra of
embedrt: the two cannot share an environment.
"""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from embedrt.errors import ExportError, MissingDependencyError, UnsupportedModelError

PYTHON = "EMBEDRT_OPTIMUM_PYTHON"
INSTALL = (
    "`python -m venv optimum` and `optimum/bin/python -m pip install 'optimum-onnx[onnxruntime]==0.1.0' torch "
    f"'transformers>=4.57,<4.58'` install it (on Windows optimum\\Scripts\\python); then set {PYTHON} "
    "to the interpreter of that environment"
)
FILE = "model.onnx"

_SCRIPT = Path(__file__).with_name("optimum_script.py")
_SHOWN_LINES = 12
# No network and no telemetry.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "PYTHONIOENCODING": "utf-8",
}
_DROPPED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")


def interpreter() -> str | None:
    """Find the interpreter with optimum-onnx: this one, or the one in `EMBEDRT_OPTIMUM_PYTHON`; None without either.

    Raises:
        MissingDependencyError: The variable is not the path of a file.
    """
    try:
        distribution("optimum-onnx")
    except PackageNotFoundError:
        named = os.environ.get(PYTHON)
        if not named:
            return None
        if not Path(named).is_file():
            raise MissingDependencyError(f"{PYTHON}: {named} is not a file; {INSTALL}") from None
        return str(Path(named).absolute())  # not resolved: a link decides the virtual environment
    return sys.executable


def export_backbone(folder: Path, target: Path) -> str:
    """Export a transformer to an ONNX backbone, in float32 on the CPU.

    Args:
        folder: The transformer's folder, with weights in safetensors.
        target: An empty folder.

    Returns:
        Name of the backbone in `target`.

    Raises:
        MissingDependencyError: optimum-onnx is not installed; the message has the command that installs it.
        UnsupportedModelError: The weights are not safetensors; pickles are never opened.
        ExportError: The export failed; the message has the end of its output.
    """
    python = interpreter()
    if python is None:
        raise MissingDependencyError(f"via optimum: optimum-onnx is not installed; {INSTALL}")
    if not any(folder.glob("model*.safetensors")):
        raise UnsupportedModelError(
            f"via optimum: {folder.name} has no model.safetensors; save the model as safetensors "
            "(`save_pretrained`), or ask its authors to"
        )
    status, printed = _run(
        [python, "-c", _SCRIPT.read_text(encoding="utf-8"), str(folder.resolve()), str(target.resolve())], target
    )
    if status != 0 or not (target / FILE).is_file():
        lines = [line for line in printed.splitlines() if line.strip()]
        shown = "\n".join(line[:300] for line in lines[-_SHOWN_LINES:])
        raise ExportError(f"via optimum: {python} failed with status {status}; the end of its output:\n{shown}")
    return FILE


def _run(command: list[str], folder: Path) -> tuple[int, str]:
    """Run a command that ends with this process; returns its status and output.

    The operating system closes the pipe to its input even if this process is killed, and the script exits then.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _DROPPED} | _ENVIRONMENT
    log = folder / "output.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - the user's interpreter and our script, without a shell
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            status = process.wait()
        finally:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
    return status, log.read_text(encoding="utf-8", errors="replace")
