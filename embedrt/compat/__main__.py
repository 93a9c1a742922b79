"""`python -m embedrt.compat`: run a program with embedrt's module `sentence_transformers`, or set up the hook."""

import sys
from pathlib import Path

from embedrt.compat import hook
from embedrt.compat.module import FOLDER
from embedrt.compat.running import run_module, run_script
from embedrt.errors import CompatError

_HELP = f"""\
Usage: python -m embedrt.compat SCRIPT [ARGUMENTS]
       python -m embedrt.compat -m MODULE [ARGUMENTS]
       python -m embedrt.compat hook | unhook | path

Run a program in which `import sentence_transformers` gives a module made of embedrt. Processes that it starts
have the module too.

  hook     let Python check {hook.VARIABLE} at every start of this environment:
           with the value 1, every program has the module
  unhook   undo that
  path     print the folder that does the same on PYTHONPATH, without the hook
"""


def main(arguments: list[str]) -> int:
    """Run the command line.

    Returns:
        The exit status: 0; 1 for an error with a one-line message; 2 for a usage error. A program that ends with
        another status or with an exception ends the process so.
    """
    match arguments:
        case ["-h" | "--help"]:
            print(_HELP, end="")
        case ["hook" | "unhook" as command]:
            return _set_up(command)
        case ["path"]:
            print(FOLDER)
        case ["-m", module, *rest]:
            run_module(module, rest)
        case [script, *rest] if not script.startswith("-"):
            if not Path(script).exists():
                print(f"embedrt: {script}: no such file", file=sys.stderr)
                return 2
            run_script(script, rest)
        case _:
            print(_HELP, end="", file=sys.stderr)
            return 2
    return 0


def _set_up(command: str) -> int:
    """Write or remove the hook."""
    try:
        if command == "hook":
            print(f"wrote {hook.write()}; set {hook.VARIABLE}=1 for programs that are to use it")
        else:
            file = hook.remove()
            print("there was no hook" if file is None else f"removed {file}")
    except CompatError as error:
        print(f"embedrt: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
