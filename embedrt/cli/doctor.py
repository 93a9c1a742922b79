"""`embedrt doctor`: versions, devices, threads and the store of this machine, with a remedy for each problem."""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import click

import embedrt
from embedrt._version import __version__
from embedrt.bundle.facts import headline
from embedrt.bundle.manifest import Manifest, read_bundle
from embedrt.bundle.staging import unfinished
from embedrt.cli import options, streams
from embedrt.compat import hook, is_active
from embedrt.engine import cuda_setup, numa, openvino
from embedrt.engine.cuda_setup import Facts, Library
from embedrt.engine.devices import DEVICES
from embedrt.engine.machine import affinity, available_threads, quota
from embedrt.engine.session import onnxruntime
from embedrt.errors import DeviceError, EmbedrtError, MissingDependencyError, ModelNotFoundError
from embedrt.hub import local
from embedrt.tune.result import summary

_EXPORT = ("onnx", "safetensors", "ml_dtypes")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: The subject, such as a package.
        found: The state.
        problem: The problem with its remedy, or None.
    """

    topic: str
    found: str
    problem: str | None = None


@click.command(epilog=options.examples("embedrt doctor"))
def doctor() -> int:
    """Show the state of this machine, and a remedy for each problem.

    Versions, devices, threads and the local store are examined. Nothing is changed, and nothing is downloaded. The exit
    status is 1 if there is a problem.
    """
    streams.require_output()
    healthy = True
    for finding in examine():
        print(f"{finding.topic:20} {finding.found}")
        if finding.problem is not None:
            healthy = False
            print(f"{'':20} ! {finding.problem}")
    return 0 if healthy else 1


def examine() -> Iterator[Finding]:
    """Examine versions, providers, threads and the store; change nothing and download nothing."""
    yield Finding("embedrt", __version__)
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in ("numpy", "tokenizers", "huggingface-hub"):
        yield Finding(name, version(name))
    yield from _engine()
    missing = [name for name in _EXPORT if _version(name) is None]
    yield Finding(
        "export",
        ", ".join(f"{name} {_version(name) or 'missing'}" for name in _EXPORT)
        + (" (not needed to encode; `pip install 'embedrt[export]'` adds it)" if missing else ""),
    )
    yield compat_finding(hook.state(), active=is_active(), package=_version("sentence-transformers"))
    limit = quota()
    granted = "no cgroup limit" if limit is None else f"{limit:g} by cgroup limit"
    near = f"; {len(found)} NUMA nodes" if (found := numa.nodes()) else ""
    yield Finding(
        "threads",
        f"{available_threads()} in use: {affinity()} by affinity, {granted}{near}",
        "less than one CPU core is granted; expect high latency" if limit is not None and limit < 1 else None,
    )
    yield from _store()


def _engine() -> Iterator[Finding]:
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    try:
        module = onnxruntime()
    except MissingDependencyError as error:
        yield Finding("onnxruntime", "missing", str(error))
        return
    problem = None
    if len(both) > 1:
        problem = "onnxruntime and onnxruntime-gpu overwrite each other; uninstall both, then install one of them"
    yield Finding("onnxruntime", f"{module.__version__}, telemetry off", problem)
    available = module.get_available_providers()
    devices = [device.name for device in DEVICES.values() if device.provider in available]
    yield Finding("devices", f"{', '.join(devices)} (providers: {', '.join(available)})")
    yield from cuda_findings(cuda_setup.gather())
    yield _openvino(module)


def cuda_findings(facts: Facts) -> Iterator[Finding]:
    """Examine wheel, driver, cards and libraries of CUDA; without the GPU wheel, nothing of it is a problem."""
    cards = facts.cards or ()
    newest = f" for CUDA {facts.driver_cuda // 1000}.{facts.driver_cuda % 1000 // 10}" if facts.driver_cuda else ""
    driver = f"NVIDIA driver{newest}" if facts.driver else "no NVIDIA driver"
    driver += f", {len(cards)} GPU" + "s" * (len(cards) != 1)
    if cuda_setup.PROVIDER not in facts.providers:
        unused = f"not needed; `pip uninstall -y onnxruntime`, then `{cuda_setup.INSTALL}` adds CUDA"
        yield Finding("cuda", f"not in this wheel of onnxruntime ({unused}); {driver}")
        return
    wheels = ", ".join(f"{name} {number}" for name, number in facts.wheels.items())
    problem = cuda_setup.wheel_problem(facts) or cuda_setup.driver_problem(facts)
    yield Finding("cuda", f"{wheels}, {driver}", problem)
    for index, card in enumerate(cards):
        yield Finding(
            f"  cuda:{index}",
            f"{card}; computes {', '.join(card.dtypes)}; attention kernels: {card.attention}",
            cuda_setup.card_problem(facts, index),
        )
    for library in (*cuda_setup.LIBRARIES, cuda_setup.CUDNN):
        if library.name in facts.libraries:
            yield _library(library, facts.libraries[library.name])


def compat_finding(state: hook.State, *, active: bool, package: str | None) -> Finding:
    """Examine which module programs import as `sentence_transformers`.

    Args:
        state: The state of the hook.
        active: True if this process has embedrt's module.
        package: The installed version of sentence-transformers, or None.
    """
    topic = "drop-in module"
    real = f"sentence-transformers {f'{package} is' if package else 'is not'} installed"
    if active:
        return Finding(topic, f"in place (embedrt.compat); {real}")
    if state.is_set and not state.is_there:
        return Finding(
            topic, real, f"{hook.VARIABLE} is set, but the hook is missing; run `python -m embedrt.compat hook`"
        )
    if state.is_there and not state.is_current:
        return Finding(topic, real, f"{state.file} is of another embedrt; run `python -m embedrt.compat hook` again")
    ready = f"ready for {hook.VARIABLE}=1" if state.is_there else "not in place"
    return Finding(topic, f"{ready}; {real}")


def _library(library: Library, path: str | None) -> Finding:
    if path is None:
        use = "; packed float16 and bfloat16 graphs do without" if library is cuda_setup.CUDNN else ""
        return Finding(f"  {library.name}", f"missing{use}", cuda_setup.install(library))
    packaged = f" ({library.package} {_version(library.package)})" if "nvidia" in Path(path).parts else ""
    return Finding(f"  {library.name}", f"{path}{packaged}")


def _openvino(module: ModuleType) -> Finding:
    installed = _version(openvino.PACKAGE)
    if installed is None:
        return Finding("openvino", "plug-in not installed (not needed; `pip install 'embedrt[openvino]'` adds it)")
    try:
        offered = openvino.offered(module)
    except DeviceError as error:
        return Finding("openvino", f"{openvino.PACKAGE} {installed}", f"{error}; install it again")
    devices = ", ".join(f"{name} ({' '.join(openvino.capabilities(device))})" for name, device in offered.items())
    return Finding(
        "openvino",
        f"{openvino.PACKAGE} {installed}, devices: {devices or 'none; as of 1.8.1 it takes Intel hardware only'}",
    )


def _store() -> Iterator[Finding]:
    try:
        home = local.home()
    except (ModelNotFoundError, ValueError) as error:
        yield Finding("store", "no folder", str(error))
        return
    existing = next(folder for folder in [home, *home.parents] if folder.is_dir())
    problem = None
    if not os.access(existing, os.W_OK):
        problem = f"{existing} is read-only for this user; set EMBEDRT_HOME to a folder of yours"
    yield Finding("store", str(home), problem)
    bundles = local.stored()
    for name in bundles:
        if (folder := local.stored_folder(name)) is None:
            continue  # removed since
        try:
            manifest = read_bundle(folder)
        except EmbedrtError as error:
            yield Finding(f"  {name}", "damaged", f"{error}; or `embedrt remove {name}`")
        else:
            yield Finding(f"  {name}", headline(manifest))
            yield _tuning(folder, manifest)
    for left in unfinished(home / "bundles"):
        yield Finding(f"  {left.name}", "left by a killed process", f"delete {left}, or let the next export do it")
    name = embedrt.default_model()
    known = Path(name).is_dir() or name in bundles
    yield Finding(
        "default model",
        f"{name} ({'there' if known else 'not in the store'})",
        None if known else f"run `embedrt export {name}`, or set EMBEDRT_MODEL to a bundle",
    )


def _tuning(folder: Path, manifest: Manifest) -> Finding:
    try:
        return Finding("    tuned", summary(folder, manifest))
    except EmbedrtError as error:
        return Finding("    tuned", "damaged", str(error))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
