"""A hub on this machine: repos from folders, over real HTTP, with the faults that a test asks for. It takes uploads."""

import base64
import hashlib
import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    method: str
    path: str
    authorization: str | None


@dataclass
class Hub:
    """The state that tests set and look at.

    Attributes:
        url: For `HF_ENDPOINT`.
        repos: By id, and by revision within it, the folder with the files.
        refuse: Per id the status, error code and message of every answer.
        token: What private repos want; None serves everybody.
        cut: Files whose download ends after half of the bytes, without a word.
        requests: Everything that was asked, in order.
        user: Whose repos are made without an organization.
        uploads: Where uploaded files go.
        refuse_upload: Status and message of the answer to a path that ends like this.
        blobs: Large files by SHA-256, before and after the commit that names them.
        commits: Per commit what the client sent with it.
        private: Repos that were made private.
        silent: Ends of paths, with the method before them, whose requests get no answer.
        stalled: Files whose download stops after half of the bytes, while the connection stays.
        answers: By the end of a path, with the method before it, the status and the headers of the answer.
        over: Set when the test has ended.
    """

    url: str = ""
    repos: dict[str, dict[str, Path]] = field(default_factory=dict)
    refuse: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    token: str | None = None
    cut: set[str] = field(default_factory=set)
    requests: list[Request] = field(default_factory=list)
    user: str = "somebody"
    uploads: Path = Path()
    refuse_upload: dict[str, tuple[int, str]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict[str, str]] = field(default_factory=list)
    private: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    stalled: set[str] = field(default_factory=set)
    answers: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def add(self, repo: str, folder: Path, *revisions: str) -> str:
        """Serves a folder as a repo, under its commit and the revisions named; returns the commit."""
        commit = hashlib.sha1(f"{repo} {folder}".encode()).hexdigest()
        self.repos.setdefault(repo, {}).update(dict.fromkeys([commit, *(revisions or ["main"])], folder))
        return commit

    def commit(self, repo: str, folder: Path) -> str:
        return next(name for name, place in self.repos[repo].items() if place == folder and len(name) == 40)

    def write(self, repo: str, revision: str, files: dict[str, bytes], message: str) -> str:
        """A commit with some files more, on a branch; returns its id."""
        folder = self.uploads / str(len(self.commits))
        if (before := self.repos[repo].get(revision)) is not None:
            shutil.copytree(before, folder)
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        self.commits.append({"repo": repo, "revision": revision, "message": message})
        return self.add(repo, folder, revision)

    def authorizations(self) -> set[str | None]:
        """What came with the requests for repos."""
        return {request.authorization for request in self.requests if any(repo in request.path for repo in self.repos)}

    def downloads(self) -> list[str]:
        """The files whose content was asked for."""
        return sorted(
            unquote(request.path.split("/resolve/")[1].partition("/")[2])
            for request in self.requests
            if request.method == "GET" and "/resolve/" in request.path
        )


class Handler(BaseHTTPRequestHandler):
    """The part of the hub's HTTP interface that `model_info`, `snapshot_download` and `create_commit` use."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the standard library
        """Says nothing."""

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.respond()

    def do_POST(self) -> None:
        self.take()

    def do_PUT(self) -> None:
        self.take()

    def take(self) -> None:  # noqa: PLR0911 - one answer a case
        """Uploads: a repo is made, large files come first, then a commit with the small ones names them."""
        url = urlsplit(self.path)
        path = unquote(url.path).strip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.requests.append(Request(self.command, path, self.headers.get("Authorization")))
        if self.is_faulty(path):
            return None
        for end, (status, message) in self.hub.refuse_upload.items():
            if path.endswith(end):
                return self.fail(status, "", message)
        if path.startswith("blobs/"):  # signed addresses want no token
            digest = hashlib.sha256(body).hexdigest()
            self.hub.blobs[digest] = body
            return self.send_json({}) if path == f"blobs/{digest}" else self.fail(400, "", "wrong content")
        if self.hub.token is not None and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self.fail(401, "", "Invalid username or password.")
        if path == "api/validate-yaml":
            return self.send_json({"errors": [], "warnings": []})
        if path == "api/repos/create":
            return self.make_repo(json.loads(body))
        repo = path.removeprefix("api/models/").partition(".git/")[0]
        repo, rest = "/".join(repo.split("/")[:2]), path.removeprefix("api/models/").split("/")[2:]
        if repo not in self.hub.repos:
            return self.fail(404, "RepoNotFound", "Repository not found")
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.send_json({"objects": [self.lfs_action(item) for item in json.loads(body)["objects"]]})
        revision = rest[1]
        if rest[0] == "branch":
            return self.make_branch(repo, revision)
        if revision not in self.hub.repos[repo]:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if rest[0] == "preupload":
            return self.send_json({"files": [upload_mode(item) for item in json.loads(body)["files"]]})
        return self.commit(repo, revision, body, pull_request="create_pr=1" in url.query)

    def is_faulty(self, path: str) -> bool:
        """Keeps a request waiting, or answers it, as the test wants it."""
        if any(self.is_request(wanted, path) for wanted in self.hub.silent):
            self.hub.over.wait()
            self.close_connection = True
            return True
        for wanted, (status, headers) in self.hub.answers.items():
            if self.is_request(wanted, path):
                self.send_json({"error": f"No, {status}"}, status, **headers)
                return True
        return False

    def is_request(self, wanted: str, path: str) -> bool:
        method, _, end = wanted.partition(" ")
        return self.command == method and path.endswith(end)

    def make_repo(self, wanted: dict[str, str]) -> None:
        repo = f"{wanted['organization'] or self.hub.user}/{wanted['name']}"
        answer = {"url": f"{self.hub.url}/{repo}"}
        if repo in self.hub.repos:
            return self.send_json({**answer, "error": "You already created this model repo"}, 409)
        self.hub.repos[repo] = {}
        if wanted.get("visibility") == "private" or wanted.get("private"):
            self.hub.private.add(repo)
        self.hub.write(repo, "main", {".gitattributes": b"*.data filter=lfs"}, "initial commit")
        return self.send_json(answer)

    def make_branch(self, repo: str, revision: str) -> None:
        if revision in self.hub.repos[repo]:
            return self.fail(409, "", "Reference already exists")
        self.hub.write(repo, revision, {".gitattributes": b"*.data filter=lfs"}, "initial commit")
        return self.send_json({})

    def lfs_action(self, item: dict[str, object]) -> dict[str, object]:
        return {**item, "actions": {"upload": {"href": f"{self.hub.url}/blobs/{item['oid']}"}}}

    def commit(self, repo: str, revision: str, body: bytes, *, pull_request: bool) -> None:
        header, *operations = map(json.loads, body.splitlines())
        files = {}
        for operation in operations:
            value = operation["value"]
            large = operation["key"] == "lfsFile"
            files[value["path"]] = self.hub.blobs[value["oid"]] if large else base64.b64decode(value["content"])
        target = "refs/pr/1" if pull_request else revision
        commit = self.hub.write(repo, target, files, header["value"]["summary"])
        address = f"{self.hub.url}/{repo}"
        answer = {"commitUrl": f"{address}/commit/{commit}", "commitOid": commit}
        if pull_request:
            answer["pullRequestUrl"] = f"{address}/discussions/1"
        return self.send_json(answer)

    def respond(self) -> None:  # noqa: PLR0911 - one answer a case
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append(Request(self.command, path, self.headers.get("Authorization")))
        if self.is_faulty(path):
            return None
        parts = path.split("/")
        is_api = parts[:2] == ["api", "models"]
        parts = parts[2:] if is_api else parts
        repo, rest = "/".join(parts[:2]), parts[2:]
        if repo in self.hub.refuse:
            return self.fail(*self.hub.refuse[repo])
        if self.hub.token is not None and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self.fail(401, "", "Invalid username or password.")
        if repo not in self.hub.repos:
            return self.fail(401, "RepoNotFound", "Repository not found")
        revision = rest[1] if len(rest) > 1 else "main"
        if (folder := self.hub.repos[repo].get(revision)) is None:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit = self.hub.commit(repo, folder)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if is_api and rest[:1] == ["tree"]:
            return self.send_json([tree_entry(folder, file) for file in files])
        if is_api:
            names = [{"rfilename": file.relative_to(folder).as_posix()} for file in files]
            return self.send_json({"id": repo, "modelId": repo, "sha": commit, "siblings": names})
        file = folder / "/".join(rest[2:])
        if rest[:1] != ["resolve"] or file not in files:
            return self.fail(404, "EntryNotFound", "Entry not found")
        return self.send_file(file, commit)

    def send_file(self, file: Path, commit: str) -> None:
        content = file.read_bytes()
        start, _, _ = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        rest = content[int(start) :]
        self.send_response(206 if int(start) else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{blob_id(content)}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(rest)))
        if int(start):
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if file.name in self.hub.cut:
            self.wfile.write(rest[: len(rest) // 2] if not int(start) else b"")
            self.close_connection = True
            return
        if file.name in self.hub.stalled:
            self.wfile.write(rest[: len(rest) // 2] if not int(start) else b"")
            self.hub.over.wait()
            self.close_connection = True
            return
        self.wfile.write(rest)

    def send_json(self, content: object, status: int = 200, **headers: str) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status: int, code: str, message: str) -> None:
        self.send_json({"error": message}, status, X_Error_Code=code, X_Error_Message=message)


def blob_id(content: bytes) -> str:
    """The id that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def tree_entry(folder: Path, file: Path) -> dict[str, object]:
    content = file.read_bytes()
    name = file.relative_to(folder).as_posix()
    return {"type": "file", "path": name, "size": len(content), "oid": blob_id(content)}


def upload_mode(item: dict[str, object]) -> dict[str, object]:
    """Large is what has a suffix of weights, so that both ways are gone."""
    large = str(item["path"]).endswith((".data", ".onnx", ".npy"))
    return {"path": item["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": None}


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub on a free port of this machine."""
    uploads = tempfile.TemporaryDirectory()
    hub = Hub(uploads=Path(uploads.name))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = False
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.over.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
        uploads.cleanup()
