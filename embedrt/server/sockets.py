"""Sockets that a server listens on: TCP, or the file of a Unix socket."""

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from embedrt.server.settings import Settings

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# Descriptors that are no connections: files, sockets that listen, those of the engine.
_OTHER_DESCRIPTORS = 128
_MOST_CONNECTIONS = 10_000


@contextmanager
def bound(settings: Settings) -> Iterator[list[socket.socket]]:
    """The sockets of a server, bound and not yet listening; the file of a Unix socket goes at the end.

    Raises:
        OSError: The address is in use, or not allowed.
    """
    if settings.socket is None:
        with bound_port(settings.host, settings.port) as sockets:
            yield sockets
        return
    path = settings.socket
    _remove_stale(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        try:
            one.bind(str(path))
        except OSError as error:
            raise OSError(f"{path}: {error.strerror or error}; choose another path with --socket") from error
        try:
            yield [one]
        finally:
            path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    """Remove the file of a Unix socket whose server has died."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(f"{path}: another server listens there; choose another path with --socket")


@contextmanager
def bound_port(host: str, port: int | None) -> Iterator[list[socket.socket]]:
    """Sockets of every address of a host; none without a port."""
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        if port is not None:
            try:
                found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            except socket.gaierror as error:
                raise OSError(f"--host {host}: {error.strerror}") from error
            for family, kind, protocol, _, address in dict.fromkeys(found):
                one = stack.enter_context(socket.socket(family, kind, protocol))
                if os.name == "posix":  # after a restart; on Windows it would let another program take the port
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                free = sockets[0].getsockname()[1] if sockets else port  # the same free port for all addresses
                try:
                    one.bind((address[0], free, *address[2:]))
                except OSError as error:
                    remedy = "choose another one" if error.errno == errno.EADDRINUSE else "choose one above 1023"
                    raise OSError(f"{host}, port {port}: {error.strerror}; {remedy} with --port") from error
                sockets.append(one)
        yield sockets


def address_of(listening: Sequence[socket.socket]) -> str:
    """The address that clients use."""
    one = listening[0]
    if one.family == getattr(socket, "AF_UNIX", None):
        return f"unix:{one.getsockname()}"
    host, port = one.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def most_connections() -> int:
    """The number of connections that the descriptors of this process allow; the limit is raised as far as it goes."""
    if resource is None:
        return _MOST_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(1, min(_MOST_CONNECTIONS, soft - _OTHER_DESCRIPTORS))
