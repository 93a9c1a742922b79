"""Processes whose every touch of network, files, code and other programs is written down by an audit hook.

The hook is in place before anything of embedrt is imported. It sees what Python and its modules do; native code that
opens sockets on its own leaves them in /proc/self/fd, where `open_sockets` finds them.
"""

import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_HOOK = """
import json, os, sys
seen = {"network": [], "read": [], "written": [], "started": [], "unpickled": [], "compiled": []}
def audit(event, arguments):
    if not watching:
        return
    if event.startswith("socket.") and event != "socket.gethostname":
        seen["network"].append(f"{event} {arguments!r}"[:300])
    elif event == "open" and isinstance(arguments[0], (str, bytes)):
        writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        seen["written" if writes else "read"].append(os.path.abspath(os.fsdecode(arguments[0])))
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "os.utime"):
        if isinstance(arguments[0], (str, bytes)):
            seen["written"].append(os.path.abspath(os.fsdecode(arguments[0])))
    elif event in ("os.rename", "os.link", "os.symlink"):
        seen["written"] += [os.path.abspath(os.fsdecode(path)) for path in arguments[:2]]
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn"):
        seen["started"].append(f"{event} {arguments!r}"[:300])
    elif event == "pickle.find_class":
        seen["unpickled"].append(repr(arguments))
    elif event == "exec" and hasattr(arguments[0], "co_filename"):
        seen["compiled"].append(arguments[0].co_filename)
watching = True
sys.addaudithook(audit)
"""
_SHOW = """
watching = False
seen["sockets"] = []
for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
    try:
        target = os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        continue
    if target.startswith("socket:"):
        seen["sockets"].append(target)
print("\\n" + json.dumps({name: sorted(set(found)) for name, found in seen.items()}))
"""


@dataclass(frozen=True)
class Watched:
    """What a process did.

    Attributes:
        network: Uses of sockets and name lookups.
        read: Files opened for reading.
        written: Files and folders made, changed, renamed or removed.
        started: Other programs and copies of this one.
        unpickled: Names that a pickle asked for.
        compiled: Files of the code that ran.
        sockets: Sockets open at the end.
    """

    network: list[str]
    read: list[str]
    written: list[str]
    started: list[str]
    unpickled: list[str]
    compiled: list[str]
    sockets: list[str]

    def outside(self, paths: list[str], *allowed: Path) -> list[str]:
        """Those of the paths that are neither allowed, nor of the interpreter, its packages or the system."""
        system = [
            sys.prefix,
            sys.base_prefix,
            str(sysconfig.get_path("stdlib")),
            "/proc",
            "/sys",
            "/dev",
            "/etc",
            "/usr",
            "/lib",
        ]
        code = [ROOT / "embedrt", ROOT / "export", ROOT / "tests"]
        inside = [os.path.realpath(path) for path in map(str, (*system, *code, *allowed))]
        return [
            path
            for path in paths
            if not any(
                os.path.realpath(path) == place or os.path.realpath(path).startswith(place + os.sep) for place in inside
            )
        ]


def watch(code: str, *arguments: object, folder: Path, **environment: str) -> Watched:
    """Run code in a process of its own, in `folder`, with its home there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "EMBEDRT_", "COV_"))}
    own = {
        "HOME": str(folder),
        "EMBEDRT_HOME": str(folder / "store"),
        "TMPDIR": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", _HOOK + code + _SHOW, *map(str, arguments)],
        cwd=folder,
        env={**kept, **own, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Watched(**json.loads(done.stdout.splitlines()[-1]))
