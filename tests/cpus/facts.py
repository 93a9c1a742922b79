"""Print as JSON what the libraries find on the CPU of this process; with "numpy" as argument, the features alone."""

import ctypes
import json
import os
import subprocess
import sys
import threading

from numpy._core._multiarray_umath import __cpu_features__  # type: ignore[import-not-found]

_ARCH_PRCTL, _GET_PERMISSIONS, _AMX_TILES = 158, 0x1022, 1 << 18


def features() -> list[str]:
    """The CPU features that numpy found when it was loaded."""
    return [name for name, found in __cpu_features__.items() if found]


def uses_amx() -> bool:
    """True if some library has asked the kernel for the registers of AMX, which none has from the start."""
    allowed = ctypes.c_ulong()
    failed = ctypes.CDLL(None).syscall(_ARCH_PRCTL, _GET_PERMISSIONS, ctypes.byref(allowed))
    return not failed and bool(allowed.value & _AMX_TILES)


def of_child() -> list[str]:
    """The features in a program that a thread of this process starts."""
    printed: list[str] = []
    command = [sys.executable, "-m", "tests.cpus.facts", "numpy"]

    def start() -> None:
        printed.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    found: list[str] = json.loads(printed[0])
    return found


def of_fork() -> list[str]:
    """The features in a program that a forked child of this process turns into."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.dup2(writing, 1)
        os.execv(sys.executable, [sys.executable, "-m", "tests.cpus.facts", "numpy"])
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found: list[str] = json.load(pipe)
    os.wait()
    return found


def main() -> None:
    if sys.argv[1:] == ["numpy"]:
        print(json.dumps(features()))
        return
    from embedrt.engine.int8_saturation import ANY_PAIR, CONFIGS, is_exact

    facts = {
        "features": features(),
        "exact": [is_exact(config, ANY_PAIR) for config in CONFIGS],
        "exact for bounded pairs": [is_exact(config, 128) for config in CONFIGS],
    }
    if sys.argv[1:] == ["children"]:
        facts |= {"amx": uses_amx(), "of a child": of_child(), "of a fork": of_fork()}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
