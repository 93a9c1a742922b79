"""Functions of `embedrt` that share their name with a room, for the API reference."""

from typing import Any

import griffe


class Doors(griffe.Extension):  # type: ignore[misc]
    """Keep `embedrt.verify` and `embedrt.tune`, which griffe replaces by the rooms, as `embedrt.verify_` and so on."""

    def __init__(self) -> None:
        self._functions: dict[str, griffe.Function] = {}

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """Remember the functions of the package itself."""
        if func.parent is not None and func.parent.path == "embedrt":
            self._functions[func.name] = func

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Add those that a room has replaced."""
        for name, function in self._functions.items():
            if pkg.path == "embedrt" and pkg.members[name].is_module:
                pkg.members[f"{name}_"] = function
