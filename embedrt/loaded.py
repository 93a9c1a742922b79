"""`Loaded`: an open bundle. What is settled once in the constructor, and passed down from there."""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedrt.bundle.check import Verify
from embedrt.bundle.manifest import Bundle, open_bundle
from embedrt.bundle.opened import TRIES
from embedrt.engine import Device
from embedrt.engine.devices import AUTO, find_devices
from embedrt.engine.placement import Placement, place
from embedrt.errors import BundleError, InferenceError
from embedrt.inputs.tokenizer import Tokenizer
from embedrt.run.runner import Runner
from embedrt.tune import result as tuned


class Loaded:
    """An open bundle with its runners. Safe to use from many threads at once.

    A pickled copy holds the folder and the settings; it opens the bundle again.

    Attributes:
        folder: The bundle's folder, absolute.
        manifest: The bundle's manifest.
        tuning: The measurements of `embedrt tune` that hold here, if there are any.
        dtype: The dtype in use.
        threads: Threads to use, if the user named a number.
        max_tokens: Token budget of a batch, if the user named one.
        memory_limit: Limit on the device's memory in bytes, if the user named one.

    Args:
        folder: The bundle's folder.
        device: The device, or several, as `Embedder` takes it.
        dtype: The dtype, "auto", or None for the bundle's usual one.
        threads: Threads to use; None takes what was tuned, else what affinity and cgroup quota allow.
        max_tokens: Token budget of a batch; None takes what was tuned, else what suits the device.
        memory_limit: Limit on the device's memory in bytes; None sets none.
        verify: When files are hashed, as `read_bundle` takes it.

    Raises:
        BundleError: The bundle is damaged, or lacks the dtype.
        ValueError: The device has no limit on its memory, or the list of devices is not valid.
        DeviceError: The device is unknown or not available.
    """

    def __init__(
        self,
        folder: Path,
        device: str | Sequence[str | None] | None,
        *,
        dtype: str | None,
        threads: int | None,
        max_tokens: int | None,
        memory_limit: int | None = None,
        verify: Verify = "once",
    ) -> None:
        self.folder = folder.absolute()  # sessions are made on first use, and the working folder may change until then
        self.threads = threads
        self.max_tokens = max_tokens
        self.memory_limit = memory_limit
        self._device = device if device is None or isinstance(device, str) else tuple(device)
        self._verify: Verify = verify
        self._wanted = dtype
        self._open()

    def _open(self) -> None:
        for attempt in range(TRIES):
            bundle = open_bundle(self.folder, self._verify)
            try:
                self._use(bundle)
            except BundleError:  # replaced since, where a replaced bundle cannot be kept
                if attempt == TRIES - 1 or not bundle.files.is_replaced:
                    raise
            else:
                return

    def _use(self, bundle: Bundle) -> None:
        self._bundle: Bundle | None = bundle
        self.manifest = bundle.manifest
        self.tuning = tuned.in_use(self.folder, self.manifest, bundle.files.root)
        named = () if self._device in {None, AUTO} else self._find(self._device)
        name = named[0].short_name if named else None
        self.dtype = tuned.settled_dtype(self.tuning, self.manifest, self._wanted, name)
        self._placed = named or self._find(AUTO)
        if self.memory_limit is not None and not self._placed[0].limits_memory:
            raise ValueError(
                f"gpu_mem_limit: expected a device with a limit on its memory, as device='cuda', got "
                f"{self._placed[0].name!r}; leave it out"
            )
        self._lock = threading.RLock()  # a signal handler may encode meanwhile
        self._runners: dict[str, dict[str, Runner]] = {}
        # The same, by every name that was asked for.
        self._by_name: dict[str | tuple[str | None, ...] | None, dict[str, Runner]] = {}
        self._tokenizers: dict[tuple[str, int | None], Tokenizer] = {}
        self.runners()

    def __getstate__(self) -> dict[str, Any]:
        self.require_open()
        return {
            "folder": self.folder,
            "threads": self.threads,
            "max_tokens": self.max_tokens,
            "memory_limit": self.memory_limit,
            "_device": self._device,
            "_verify": self._verify,
            "_wanted": self._wanted,
            "fingerprint": self.manifest.fingerprint,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        fingerprint = state.pop("fingerprint")
        vars(self).update(state)
        self._open()
        if self.manifest.fingerprint != fingerprint:
            raise BundleError(f"{self.folder}: another bundle than when the model was pickled; load it by its name")

    def runners(self, device: str | tuple[str | None, ...] | None = None) -> dict[str, Runner]:
        """The runners of all routes by name. A device has one engine, by whatever name it is asked for.

        Args:
            device: Another device than the model's, or several that share the batches; None takes the model's.

        Raises:
            InferenceError: The model is closed.
            DeviceError: The device is unknown or not available.
        """
        found = self._by_name.get(device)
        return self._load(device) if found is None else found

    def _load(self, device: str | tuple[str | None, ...] | None) -> dict[str, Runner]:
        placements = self.placements(device)
        name = ", ".join(one.short_name for one in next(iter(placements.values())).devices)
        with self._lock:
            bundle = self.bundle
            if name not in self._runners:
                self._runners[name] = {
                    route: Runner(bundle.files, self.manifest.routes[route], self.manifest, placement)
                    for route, placement in placements.items()
                }
            self._by_name[device] = self._runners[name]
            return self._runners[name]

    def move(self, device: str | tuple[str | None, ...]) -> None:
        """Make other devices those of calls that name none; what the model holds on other devices is freed.

        Args:
            device: A device by any of its names, or several.

        Raises:
            DeviceError: The device is unknown or not available; then nothing changes.
        """
        placed, runners = self._find(device), self.runners(device)
        with self._lock:
            name = ", ".join(one.short_name for one in next(iter(runners.values())).placement.devices)
            self._device, self._placed = device, placed
            self._runners, self._by_name = {name: runners}, {None: runners}  # running calls keep what they use

    def placements(self, device: str | tuple[str | None, ...] | None = None) -> dict[str, Placement]:
        """The placements of all routes on a device, or on several that share the batches.

        Args:
            device: A device by any of its names, or several; None takes the model's.

        Raises:
            ValueError: The list of devices is not valid.
            DeviceError: The device is unknown or not available.
        """
        first, *others = self._placed if device is None else self._find(device)
        threads, max_tokens = tuned.settled(self.tuning, self.dtype, first.short_name, self.threads, self.max_tokens)
        return {
            name: place(
                self.folder,
                route,
                first,
                self.dtype,
                threads,
                max_tokens,
                tuple(others),
                size_of=self.manifest.size_of,
            )
            for name, route in self.manifest.routes.items()
        }

    def _find(self, device: str | tuple[str | None, ...] | None) -> tuple[Device, ...]:
        """The devices of a name or of several; "auto" is the one that was tuned for the dtype."""
        if device is None or device == AUTO:
            device = tuned.usual_device(self.tuning, self.dtype)
        found = find_devices(device if isinstance(device, tuple) else (device,))
        return tuple(one.with_memory_limit(self.memory_limit) for one in found)

    def tokenizer(self, route: str, max_seq_length: int | None) -> Tokenizer:
        """The tokenizer of a route for scripts; the last one is kept."""
        key = (route, max_seq_length)
        with self._lock:
            files = self.bundle.files
            if key not in self._tokenizers:
                record = self.manifest.routes[route]
                loaded = files.load(
                    [record.tokenizer],
                    lambda root: Tokenizer(
                        self.folder / record.tokenizer, record.tokenization, max_seq_length, root / record.tokenizer
                    ),
                )
                self._tokenizers = {key: loaded}
            return self._tokenizers[key]

    @property
    def bundle(self) -> Bundle:
        """The open bundle.

        Raises:
            InferenceError: The model is closed.
        """
        if self._bundle is None:
            raise InferenceError(f"the model {self.manifest.name!r} is closed; load it again")
        return self._bundle

    def require_open(self) -> None:
        """Check that the model was not closed.

        Raises:
            InferenceError: It was.
        """
        _ = self.bundle

    def close(self) -> None:
        """Free the memory; later calls are errors."""
        with self._lock:
            self._bundle = None  # what still runs keeps it open
            self._runners.clear()
            self._by_name.clear()
            self._tokenizers.clear()

    @property
    def device(self) -> str | list[str | None] | None:
        """The device as the user named it."""
        return list(self._device) if isinstance(self._device, tuple) else self._device

    def pool_placements(self, devices: Sequence[str | None] | None) -> list[dict[str, Placement]]:
        """The placements of a pool's processes.

        Args:
            devices: A device for each process; None takes the default ones.

        Raises:
            ValueError: `devices` is no list.
            DeviceError: A device is unknown or not available.
        """
        if isinstance(devices, str):
            raise ValueError(f"devices: expected at least one, as in ['cpu', 'cpu'], got {devices!r}")  # noqa: TRY004
        if devices is None:
            from embedrt.run.processes import default_devices  # multiprocessing takes a while to import

            devices = default_devices(self._find(AUTO)[0])
        return [self.placements(name or AUTO) for name in devices]

    def fingerprint(self, lengths: dict[str, int | None]) -> str:
        """The vector space's fingerprint, of which the limits of the routes are part.

        Args:
            lengths: Where each route truncates.
        """
        changed = {
            name: length for name, length in lengths.items() if length != self.manifest.routes[name].max_seq_length
        }
        if not changed:
            return self.manifest.fingerprint
        return hashlib.sha256(f"{self.manifest.fingerprint} {sorted(changed.items())}".encode()).hexdigest()
