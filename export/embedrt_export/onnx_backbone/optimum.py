"""The exporter of Hugging Face, optimum-onnx, in a process and mostly in an environment of its own.

It needs torch, and releases of transformers and huggingface_hub that are older than what embedrt needs. So it is not
an extra of embedrt: an environment has the one or the other.
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
    f"'transformers>=4.57,<4.58'` make an environment with it (on Windows optimum\\Scripts\\python), and {PYTHON} "
    "names the interpreter in it"
)
FILE = "model.onnx"

_SCRIPT = Path(__file__).with_name("optimum_script.py")
_SHOWN_LINES = 12
# Nothing from the network, no telemetry, and none of our modules in the way of its own.
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
    """The Python that has optimum-onnx: this one, else the one that `EMBEDRT_OPTIMUM_PYTHON` names.

    Raises:
        MissingDependencyError: The variable names no file.
    """
    try:
        distribution("optimum-onnx")
    except PackageNotFoundError:
        named = os.environ.get(PYTHON)
        if not named:
            return None
        if not Path(named).is_file():
            raise MissingDependencyError(f"{PYTHON}: {named} is no interpreter; {INSTALL}") from None
        return str(Path(named).absolute())  # not resolved: a virtual environment is where its link is
    return sys.executable


def export_backbone(folder: Path, target: Path) -> str:
    """Make an ONNX backbone of a transformer, in float32 on the CPU.

    Args:
        folder: The transformer's folder, with weights in safetensors.
        target: An empty folder.

    Returns:
        The name of the backbone in `target`.

    Raises:
        MissingDependencyError: There is no optimum-onnx; the message has the line that installs it.
        UnsupportedModelError: There are no safetensors; other weights are pickles, which are not opened.
        ExportError: It failed; the message has the end of its output.
    """
    python = interpreter()
    if python is None:
        raise MissingDependencyError(f"via optimum: optimum-onnx is not installed here; {INSTALL}")
    if not any(folder.glob("model*.safetensors")):
        raise UnsupportedModelError(
            f"via optimum: {folder.name} has no model.safetensors; save the model with safetensors "
            "(`save_pretrained` does), or ask its authors to"
        )
    status, said = _run(
        [python, "-c", _SCRIPT.read_text(encoding="utf-8"), str(folder.resolve()), str(target.resolve())], target
    )
    if status != 0 or not (target / FILE).is_file():
        lines = [line for line in said.splitlines() if line.strip()]
        shown = "\n".join(line[:300] for line in lines[-_SHOWN_LINES:])
        raise ExportError(f"via optimum: {python} failed with status {status}; it said last:\n{shown}")
    return FILE


def _run(command: list[str], folder: Path) -> tuple[int, str]:
    """Run a command; returns its status and output. It does not outlive this process.

    The pipe to its input ends with this process, however that ends, and the script ends with the pipe.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _DROPPED} | _ENVIRONMENT
    said = folder / "said.txt"
    with said.open("wb") as output:
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
    return status, said.read_text(encoding="utf-8", errors="replace")
