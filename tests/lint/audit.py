"""Run pip-audit on the environment of an interpreter, which has the runtime dependencies.

    python tests/lint/audit.py PYTHON

Exit status 0: nothing was found, or the database cannot be reached, which is printed. Otherwise that of pip-audit.
"""

import re
import subprocess
import sys

# How the libraries of pip-audit name a network that is not there.
UNREACHABLE: tuple[str, ...] = ("ConnectionError", "ServiceError", "NameResolutionError", "Max retries exceeded")
UNREACHABLE += ("Connection refused", "Failed to establish a new connection", "Could not connect", "ProxyError")
UNREACHABLE += ("SSLError", "timed out")


def verdict(status: int, output: str) -> tuple[int, str]:
    """The exit status of this script, and a line for the user."""
    skipped = [line.split()[0] for line in output.splitlines() if "could not be audited" in line]
    if status == 0 and (left := [name for name in skipped if name != "embedrt"]):
        return 0, f"NOT AUDITED: the database of vulnerabilities has no answer for {', '.join(left)}"
    if status == 0:
        return 0, "no known vulnerabilities"
    if re.search(r"Found \d+ known (vulnerability|vulnerabilities)", output):
        return status, "vulnerabilities found"
    if any(sign in output for sign in UNREACHABLE):
        return 0, "NOT AUDITED: the database of vulnerabilities cannot be reached from here"
    return status, "pip-audit failed"


def main(python: str) -> int:
    folder = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    command = [sys.executable, "-m", "pip_audit", "--path", folder.strip()]
    command += ["--progress-spinner", "off", "--timeout", "15"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    status, line = verdict(done.returncode, done.stdout + done.stderr)
    print(done.stdout + done.stderr[-2000:] + line)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
