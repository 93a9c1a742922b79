"""A web server for the files of a folder, as `python -m http.server` is one."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


class _Quiet(SimpleHTTPRequestHandler):
    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Say nothing of requests."""

    def log_error(self, *_: object) -> None:
        """Say nothing of files that are not there."""


class _Server(ThreadingHTTPServer):
    block_on_close = False  # browsers keep connections open on which they never ask


@contextmanager
def serving_files(folder: Path) -> Iterator[str]:
    """Serve the files of a folder; yields its address, without a slash at the end. Links lead out of the folder."""
    with _Server(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
