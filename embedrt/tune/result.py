"""`Tuning`: the record of `embedrt tune`, stored beside the bundle and used under equal conditions only."""

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from embedrt._version import __version__
from embedrt.bundle.atomic import replace_files
from embedrt.bundle.disk import room
from embedrt.bundle.manifest import FLOAT32, TUNED, Manifest
from embedrt.bundle.reports import MEAN_COSINE, MIN_COSINE
from embedrt.bundle.staging import staging
from embedrt.bundle.strict_json import RecordError, decode, read_json
from embedrt.engine.devices import AUTO
from embedrt.engine.machine import available_threads, cpu_model
from embedrt.engine.session import onnxruntime
from embedrt.errors import BundleError
from embedrt.types import dtype_name

logger = logging.getLogger("embedrt")

FORMAT_VERSION = 2
CLEARLY = 1.05
"""The smallest speedup that counts; less may be noise."""

# Engine packages besides onnxruntime, whose own module has its version.
_ENGINES = ("onnxruntime-gpu", "onnxruntime-ep-openvino")
# Messages that were logged, so that each is logged once.
_logged: set[tuple[Path, str]] = set()


@dataclass(frozen=True)
class Conditions:
    """The conditions under which a measurement is valid.

    Attributes:
        cpu: The CPU model.
        instructions: The CPU instructions that decide which kernels an engine uses.
        cores: The number of cores that this process may use.
        versions: The versions of embedrt and the engines.
        bundle: SHA-256 over the fingerprint and all files of the bundle.
    """

    cpu: str
    instructions: str
    cores: int
    versions: dict[str, str]
    bundle: str


@dataclass(frozen=True)
class Setting:
    """One setting with its measured speed and accuracy.

    Attributes:
        dtype: The dtype.
        device: The device.
        threads: The number of threads.
        max_tokens: The token budget of a batch: its rows times the tokens of its longest row.
        texts_per_second: Median throughput over many texts.
        one_text_ms: Median latency of a single text, in milliseconds.
        mean_cosine: Mean cosine similarity to float32.
        min_cosine: Lowest cosine similarity to float32.
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
        format_version: Version of the format.
        conditions: The conditions of measurement.
        usual_device: The device that "auto" selects without a tuning.
        usual_dtype: The default dtype of the bundle.
        texts: The number of texts.
        settings: The best setting of each dtype on each device.
        others: The other settings, measured in shorter runs.
        excluded: Failed candidates, such as "float32 on coreml", each with the reason.
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
        """The best setting of a dtype on a device; None if it was not measured."""
        return next((setting for setting in self.settings if (setting.dtype, setting.device) == (dtype, device)), None)

    def device_for(self, dtype: str) -> str | None:
        """The device that "auto" selects for a dtype; None if it was not measured.

        It is the usual device unless another is clearly faster and computes the same vectors, which only float32 is
        proved to do.
        """
        settings = [setting for setting in self.settings if setting.dtype == dtype]
        fastest = max(settings, key=lambda setting: setting.texts_per_second, default=None)
        usual = self.setting(dtype, self.usual_device)
        if fastest is None:
            return None
        if usual is None or (dtype == FLOAT32 and fastest.texts_per_second >= CLEARLY * usual.texts_per_second):
            return fastest.device
        return usual.device

    def dtype_for(self, device: str | None) -> str:
        """The dtype that "auto" selects on a device; None stands for the devices that "auto" selects.

        It is the usual dtype unless another one is accurate enough and clearly faster.
        """

        def on_device(dtype: str) -> str | None:
            return self.device_for(dtype) if device is None else device

        settings = [setting for setting in self.settings if setting.device == on_device(setting.dtype)]
        plain = next((setting for setting in settings if setting.dtype == self.usual_dtype), None)
        good = [
            setting
            for setting in settings
            if plain is not None
            and setting.mean_cosine >= MEAN_COSINE
            and setting.min_cosine >= MIN_COSINE
            and setting.texts_per_second >= CLEARLY * plain.texts_per_second
        ]
        return max(good, key=lambda setting: setting.texts_per_second).dtype if good else self.usual_dtype


@dataclass(frozen=True)
class StoredTuning:
    """The tuning that is stored beside a bundle.

    Attributes:
        tuning: The tuning; None if there is none, or none in a format that this version reads.
        unused: The reason why it is not valid here; None if it is valid, or if there is none.
    """

    tuning: Tuning | None = None
    unused: str | None = None


def conditions(manifest: Manifest) -> Conditions:
    """The conditions of this process and a bundle."""
    contents = {"fingerprint": manifest.fingerprint, "files": {n: r.sha256 for n, r in sorted(manifest.files.items())}}
    model, instructions = cpu_model()
    return Conditions(
        cpu=model,
        instructions=instructions,
        cores=available_threads(),
        versions={"embedrt": __version__, "onnxruntime": onnxruntime().__version__, **_engines()},
        bundle=hashlib.sha256(json.dumps(contents).encode()).hexdigest(),
    )


def _engines() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and most bundles have no tuning

    versions = {}
    for name in _ENGINES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def read(folder: Path, manifest: Manifest, root: Path | None = None) -> StoredTuning:
    """Read the tuning beside a bundle, and check that it is valid here.

    Args:
        folder: The bundle.
        manifest: The bundle's manifest.
        root: The path of the folder to open files with; None is `folder`, which messages name either way.

    Raises:
        BundleError: The file is damaged.
    """
    path = (root or folder) / TUNED
    if not os.path.lexists(path):
        return StoredTuning()
    try:
        raw = read_json(path)
        number = raw.get("format_version") if isinstance(raw, dict) else None
        if type(number) is int and number != FORMAT_VERSION:
            return StoredTuning(None, f"expected format version {FORMAT_VERSION}, got {number}")
        tuning = decode(Tuning, raw, TUNED)
        _check(tuning)
    except (RecordError, OSError) as error:
        raise BundleError(f"{folder}: {error}; `embedrt tune {folder} --clear` removes the file") from error
    here = conditions(manifest)
    for name in (field.name for field in fields(Conditions)):
        then, now = getattr(tuning.conditions, name), getattr(here, name)
        if then != now:
            what = "another bundle" if name == "bundle" else f"{name} {_format(then)}, here {_format(now)}"
            return StoredTuning(tuning, f"measured with {what}")
    return StoredTuning(tuning)


def _format(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return str(value)


def _check(tuning: Tuning) -> None:
    """Check what the types cannot express."""

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise RecordError(f"{TUNED}: {message}")

    cores = tuning.conditions.cores
    for list_name, settings in (("settings", tuning.settings), ("others", tuning.others)):
        for i, setting in enumerate(settings):
            at = f"{list_name}[{i}]"
            require(
                1 <= setting.threads <= cores,
                f"{at}.threads: expected 1 to {cores}, the number of cores, got {setting.threads}",
            )
            require(setting.max_tokens >= 1, f"{at}.max_tokens: expected a positive integer, got {setting.max_tokens}")
            require(
                setting.texts_per_second > 0,
                f"{at}.texts_per_second: expected more than 0, got {setting.texts_per_second}",
            )
    pairs = [(setting.dtype, setting.device) for setting in tuning.settings]
    require(len(set(pairs)) == len(pairs), "settings: expected each pair of dtype and device once, got a duplicate")


def in_use(folder: Path, manifest: Manifest, root: Path | None = None) -> Tuning | None:
    """The tuning that is valid here, or None; one that is not valid is logged once.

    Args:
        folder: The bundle.
        manifest: The bundle's manifest.
        root: As `read` takes it.

    Raises:
        BundleError: The file is damaged.
    """
    stored = read(folder, manifest, root)
    if stored.unused is None:
        return stored.tuning
    if (folder, stored.unused) not in _logged:
        _logged.add((folder, stored.unused))
        logger.warning(
            "%s is not used: %s; run `embedrt tune %s` to measure again", folder / TUNED, stored.unused, folder
        )
    return None


def settled_dtype(tuning: Tuning | None, manifest: Manifest, dtype: str | None, device: str | None) -> str:
    """Choose the dtype: the named one, else the default; the tuning decides for "auto".

    Args:
        tuning: The tuning, if any.
        manifest: The bundle's manifest.
        dtype: The `dtype` of `Embedder`.
        device: The device that the user named; None for "auto".

    Raises:
        ValueError: The dtype is unknown.
    """
    if dtype is not None and dtype != AUTO:
        return dtype_name(dtype)
    if dtype is None or tuning is None:
        return manifest.default_dtype
    return tuning.dtype_for(device)


def usual_device(tuning: Tuning | None, dtype: str) -> str | None:
    """The device that "auto" selects for a dtype by the tuning; None if it was not measured."""
    return None if tuning is None else tuning.device_for(dtype)


def settled(
    tuning: Tuning | None, dtype: str, device: str, threads: int | None, max_tokens: int | None
) -> tuple[int | None, int | None]:
    """Choose threads and token budget: the given ones, else the measured ones, else None."""
    setting = None if tuning is None else tuning.setting(dtype, device)
    if setting is None:
        return threads, max_tokens
    return threads or setting.threads, max_tokens or setting.max_tokens


def summary(folder: Path, manifest: Manifest) -> str:
    """Describe the bundle's tuning in one line.

    Raises:
        BundleError: The file is damaged.
    """
    return describe(folder, read(folder, manifest))


def describe(folder: Path, stored: StoredTuning) -> str:
    """Describe a stored tuning in one line."""
    if stored.unused is not None:
        return f"not used: {stored.unused}; run `embedrt tune {folder}` to measure again"
    if stored.tuning is None:
        return f"no; run `embedrt tune {folder}` to measure the fastest settings"
    return describe_choice(stored.tuning)


def describe_choice(tuning: Tuning) -> str:
    """Describe the settings that a tuning chooses, in one line."""
    dtypes = dict.fromkeys(setting.dtype for setting in tuning.settings)
    settings = [tuning.setting(name, tuning.device_for(name) or "") for name in dtypes]
    parts = [
        f"{setting.dtype} on {setting.device}, {setting.threads} threads, {setting.max_tokens} tokens "
        f"({setting.texts_per_second:.0f} texts/s)"
        for setting in settings
        if setting is not None
    ]
    return "; ".join([*parts, f'"auto" is {tuning.dtype_for(None)}'])


def write(folder: Path, tuning: Tuning) -> None:
    """Write a tuning beside a bundle atomically, replacing an existing one.

    Raises:
        BundleError: The folder cannot be written.
    """
    content = json.dumps(asdict(tuning), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    try:
        with room(folder / TUNED, len(content), BundleError), staging(folder / TUNED) as fresh:
            (fresh / TUNED).write_bytes(content)
            replace_files(fresh, folder)
    except OSError as error:
        raise _unwritable(folder, error) from error


def require_writable(folder: Path) -> None:
    """Check that `write` will be able to write, before minutes of work.

    Raises:
        BundleError: The folder cannot be written.
    """
    try:
        with staging(folder / TUNED):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def clear(folder: Path) -> bool:
    """Remove the tuning, even a damaged one; return True if there was one.

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
        f"{folder}: {TUNED} cannot be written there ({error}); make the folder writable, or copy the bundle to a "
        "writable folder"
    )
