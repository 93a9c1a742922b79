"""Options of the engines, checked."""

from collections.abc import Collection, Mapping

OptionValue = str | int


def refuse_unknown(options: Mapping[str, OptionValue], known: Collection[str]) -> None:
    """Check the names of options.

    Raises:
        ValueError: A name is unknown.
    """
    for name in options:
        if name not in known:
            raise ValueError(f"engine option {name!r}: expected one of {', '.join(sorted(known))}")


def whole(options: Mapping[str, OptionValue], name: str, default: int, *, least: int = 0) -> int:
    """An option that is a whole number; the command line gives digits.

    Raises:
        ValueError: It is something else, or too small.
    """
    value = options.get(name, default)
    try:
        number = int(value)
    except ValueError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"engine option {name!r}: expected a whole number of at least {least}, got {value!r}")
    return number


def text(options: Mapping[str, OptionValue], name: str) -> str | None:
    """An option that is a str, or None."""
    value = options.get(name)
    return None if value is None else str(value)
