"""The CPUs that `make test-cpus` can run here, one a line; exit status 1 if there is none at full speed."""

import sys
import tempfile
from pathlib import Path

from tests.cpus.cpus import OLDER, UnavailableError, older


def main() -> int:
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in OLDER:
            try:
                cpu = older(name, Path(folder))
            except UnavailableError as error:
                print(f"{name}: not here: {error}")
            else:
                found += not cpu.is_emulated
                print(f"{name}: {'emulated by qemu' if cpu.is_emulated else 'at full speed'}")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
