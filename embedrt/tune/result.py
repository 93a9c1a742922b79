"""What `embedrt tune` found, kept beside the bundle: read strictly, and used where it was measured and nowhere else."""

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from embedrt._version import __version__
from embedrt.bundle.atomic import replace_files, staging
from embedrt.bundle.manifest import FLOAT32, TUNED, Manifest
from embedrt.bundle.reports import MEAN_COSINE, MIN_COSINE
from embedrt.bundle.strict_json import RecordError, decode, read_json
from embedrt.engine.devices import find_device
from embedrt.engine.machine import available_threads, processor
from embedrt.engine.session import onnxruntime
from embedrt.errors import BundleError
from embedrt.types import dtype_name

logger = logging.getLogger("embedrt")

FORMAT_VERSION = 2
AUTO = "auto"
CLEARLY = 1.05
"""What counts as faster: less may be noise."""

# Packages that bring engines, next to onnxruntime itself, of which the module knows the version.
_ENGINES = ("onnxruntime-gpu", "onnxruntime-ep-openvino")
# What was said already, so that each line is in the log once.
_said: set[tuple[Path, str]] = set()


@dataclass(frozen=True)
class Conditions:
    """Where a measurement holds.

    Attributes:
        processor: Its kind.
        instructions: Those that decide which kernels an engine takes.
        processors: How many this process may use.
        versions: Of what computes.
        bundle: SHA-256 over the fingerprint and all files of the bundle.
    """

    processor: str
    instructions: str
    processors: int
    versions: dict[str, str]
    bundle: str


@dataclass(frozen=True)
class Setting:
    """One way to run the model, and how it did.

    Attributes:
        dtype: The dtype of the model.
        device: Where.
        threads: Processors in use.
        max_tokens: Upper bound of a batch's texts times the tokens of its longest.
        texts_per_second: The median over many texts.
        one_text_ms: The median time for one text alone, in milliseconds.
        mean_cosine: To the vectors in float32.
        min_cosine: The smallest.
    """

    dtype: str
    device: str
    threads: int
    max_tokens: int
    texts_per_second: float
    one_text_ms: float
    mean_cosine: float
    min_cosine: float


@dataclass(frozen=True)
class Tuning:
    """The contents of `embedrt.tuned.json`.

    Attributes:
        format_version: Version of this contract.
        conditions: Where it was measured.
        usual_device: What "auto" takes there without a tuning.
        usual_dtype: The dtype of models for which none is named.
        texts: How many texts were taken.
        settings: The best way to run each dtype on each device.
        others: What else was measured, in shorter runs.
        excluded: What was tried and is not used, such as "float32 on coreml", and why.
    """

    format_version: int
    conditions: Conditions
    usual_device: str
    usual_dtype: str
    texts: int
    settings: tuple[Setting, ...]
    others: tuple[Setting, ...]
    excluded: dict[str, str]

    def setting(self, dtype: str, device: str) -> Setting | None:
        """The best way to run a dtype on a device; None if it was not measured."""
        return next((way for way in self.settings if (way.dtype, way.device) == (dtype, device)), None)

    def device_for(self, dtype: str) -> str | None:
        """The device that "auto" takes for a dtype; None if it was not measured.

        It is the usual one unless another is clearly faster and gives the same numbers. Only float32 is
        proved to.
        """
        ways = [way for way in self.settings if way.dtype == dtype]
        fastest = max(ways, key=lambda way: way.texts_per_second, default=None)
        usual = self.setting(dtype, self.usual_device)
        if fastest is None:
            return None
        if usual is None or (dtype == FLOAT32 and fastest.texts_per_second >= CLEARLY * usual.texts_per_second):
            return fastest.device
        return usual.device

    def dtype_for(self, device: str | None) -> str:
        """The dtype that "auto" takes on a device, or for None on those that "auto" takes.

        It is the usual one unless another that is good enough is clearly faster.
        """

        def on_device(dtype: str) -> str | None:
            return self.device_for(dtype) if device is None else device

        ways = [way for way in self.settings if way.device == on_device(way.dtype)]
        plain = next((way for way in ways if way.dtype == self.usual_dtype), None)
        good = [
            way
            for way in ways
            if plain is not None
            and way.mean_cosine >= MEAN_COSINE
            and way.min_cosine >= MIN_COSINE
            and way.texts_per_second >= CLEARLY * plain.texts_per_second
        ]
        return max(good, key=lambda way: way.texts_per_second).dtype if good else self.usual_dtype


@dataclass(frozen=True)
class Found:
    """What lies beside a bundle.

    Attributes:
        tuning: The measurement; None if there is none that this version reads.
        unused: Why it does not hold here; None if it does, or if there is none.
    """

    tuning: Tuning | None = None
    unused: str | None = None


def conditions(manifest: Manifest) -> Conditions:
    """Those of this process and a bundle."""
    contents = {"fingerprint": manifest.fingerprint, "files": {n: r.sha256 for n, r in sorted(manifest.files.items())}}
    kind, instructions = processor()
    return Conditions(
        processor=kind,
        instructions=instructions,
        processors=available_threads(),
        versions={"embedrt": __version__, "onnxruntime": onnxruntime().__version__, **_engines()},
        bundle=hashlib.sha256(json.dumps(contents).encode()).hexdigest(),
    )


def _engines() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version  # takes a while, and most bundles have no tuning

    found = {}
    for name in _ENGINES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def find(folder: Path, manifest: Manifest) -> Found:
    """Reads what lies beside a bundle, and says whether it holds here.

    Raises:
        BundleError: It is damaged.
    """
    path = folder / TUNED
    if not os.path.lexists(path):
        return Found()
    try:
        raw = read_json(path)
        number = raw.get("format_version") if isinstance(raw, dict) else None
        if type(number) is int and number != FORMAT_VERSION:
            return Found(None, f"format version {number}, and this embedrt reads {FORMAT_VERSION}")
        tuning = decode(Tuning, raw, TUNED)
        _check(tuning)
    except (RecordError, OSError) as error:
        raise BundleError(f"{folder}: {error}; `embedrt tune {folder} --clear` removes the file") from error
    here = conditions(manifest)
    for name in (field.name for field in fields(Conditions)):
        then, now = getattr(tuning.conditions, name), getattr(here, name)
        if then != now:
            what = "another bundle" if name == "bundle" else f"{name} {_shown(then)}, here {_shown(now)}"
            return Found(tuning, f"measured with {what}")
    return Found(tuning)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return str(value)


def _check(tuning: Tuning) -> None:
    """What the types cannot say."""

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise RecordError(f"{TUNED}: {message}")

    processors = tuning.conditions.processors
    for list_name, ways in (("settings", tuning.settings), ("others", tuning.others)):
        for i, way in enumerate(ways):
            at = f"{list_name}[{i}]"
            require(
                1 <= way.threads <= processors,
                f"{at}.threads: expected 1 to {processors} processors, got {way.threads}",
            )
            require(way.max_tokens >= 1, f"{at}.max_tokens: expected a positive integer, got {way.max_tokens}")
            require(
                way.texts_per_second > 0, f"{at}.texts_per_second: expected more than 0, got {way.texts_per_second}"
            )
    pairs = [(way.dtype, way.device) for way in tuning.settings]
    require(len(set(pairs)) == len(pairs), "settings: one dtype twice on the same device")


def in_use(folder: Path, manifest: Manifest) -> Tuning | None:
    """The tuning that holds here, if any. One that does not is told in the log, once.

    Raises:
        BundleError: The file is damaged.
    """
    found = find(folder, manifest)
    if found.unused is None:
        return found.tuning
    if (folder, found.unused) not in _said:
        _said.add((folder, found.unused))
        logger.warning("%s is not used: %s; `embedrt tune %s` measures here", folder / TUNED, found.unused, folder)
    return None


def settled_dtype(tuning: Tuning | None, manifest: Manifest, dtype: str | None, device: str | None) -> str:
    """The dtype that a user's `dtype` and `device` stand for.

    Raises:
        ValueError: No such dtype.
    """
    if dtype is not None and dtype != AUTO:
        return dtype_name(dtype)
    if dtype is None or tuning is None:
        return manifest.default_dtype
    return tuning.dtype_for(None if device in {None, AUTO} else find_device(device).name)


def settled(
    tuning: Tuning | None, dtype: str, device: str | None, threads: int | None, max_tokens: int | None
) -> tuple[str | None, int | None, int | None]:
    """Device, threads and token budget: those given, else those measured, else None.

    Raises:
        DeviceError: The device is unknown or not available.
    """
    if tuning is None:
        return device, threads, max_tokens
    if device in {None, AUTO}:
        device = tuning.device_for(dtype)
    way = tuning.setting(dtype, find_device(device).name)
    if way is None:
        return device, threads, max_tokens
    return device, threads or way.threads, max_tokens or way.max_tokens


def summary(folder: Path, manifest: Manifest) -> str:
    """What the bundle's tuning comes to here, in a line.

    Raises:
        BundleError: The file is damaged.
    """
    return told(folder, find(folder, manifest))


def told(folder: Path, found: Found) -> str:
    """What was found beside a bundle, in a line."""
    if found.unused is not None:
        return f"not used: {found.unused}; `embedrt tune {folder}` measures here"
    if found.tuning is None:
        return f"no; `embedrt tune {folder}` measures what is fastest here"
    return choice(found.tuning)


def choice(tuning: Tuning) -> str:
    """What a tuning chooses, in a line."""
    dtypes = dict.fromkeys(way.dtype for way in tuning.settings)
    ways = [tuning.setting(name, tuning.device_for(name) or "") for name in dtypes]
    parts = [
        f"{way.dtype} on {way.device}, {way.threads} threads, {way.max_tokens} tokens "
        f"({way.texts_per_second:.0f} texts/s)"
        for way in ways
        if way is not None
    ]
    return "; ".join([*parts, f'"auto" is {tuning.dtype_for(None)}'])


def write(folder: Path, tuning: Tuning) -> None:
    """Puts a tuning beside a bundle, whole or not at all, in place of one that is there.

    Raises:
        BundleError: The folder cannot be written.
    """
    text = json.dumps(asdict(tuning), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        with staging(folder / TUNED) as fresh:
            (fresh / TUNED).write_bytes(text.encode() + b"\n")
            replace_files(fresh, folder)
    except OSError as error:
        raise _unwritable(folder, error) from error


def require_writable(folder: Path) -> None:
    """Finds out before minutes of work whether `write` can do its part.

    Raises:
        BundleError: The folder cannot be written.
    """
    try:
        with staging(folder / TUNED):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def clear(folder: Path) -> bool:
    """Removes the tuning, also a damaged one; returns whether there was one.

    Raises:
        BundleError: The folder cannot be written.
    """
    try:
        (folder / TUNED).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unwritable(folder, error) from error
    return True


def _unwritable(folder: Path, error: OSError) -> BundleError:
    return BundleError(
        f"{folder}: {TUNED} cannot be written there ({error}); make the folder writable, or copy the bundle to one "
        "that is and name the copy"
    )
