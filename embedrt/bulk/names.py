"""Names and URLs as messages, logs and files of a job may have them."""

_SECRET = ("key", "password", "secret", "token", "credential", "signature")


def printable(name: str) -> str:
    """A name with escapes for control characters: whoever named a file does not control the terminal."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in name)


def without_secrets(url: str) -> str:
    """A URL without its password, and without options whose names are those of secrets; a path stays as it is."""
    base, mark, query = url.partition("?")
    scheme, colon, rest = base.partition("://")
    if not colon:
        return url
    host, slash, path = rest.partition("/")
    user, at, place = host.rpartition("@")
    kept = "&".join(one for one in query.split("&") if not _is_secret(one.partition("=")[0]))
    return f"{scheme}{colon}{user.partition(':')[0]}{at}{place}{slash}{path}{mark if kept else ''}{kept}"


def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET)
