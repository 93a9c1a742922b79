"""Copies and uploads of bundles: what is written, and what is refused. The hub is real HTTP to a server here."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import BundleError, Embedder
from embedrt.bundle.manifest import MANIFEST, open_bundle, read_bundle
from embedrt.hub import local as store
from embedrt.hub.card import model_card
from embedrt.tune import result as tuned
from tests.kit.bundles import change, copy_bundle
from tests.kit.edits import edit_json
from tests.kit.hub_client import Client
from tests.kit.hub_server import Hub

pytestmark = pytest.mark.subprocess

TOKEN = "hf_THISISSECRETandmuchlonger"
REPO = "org/tiny"
# Prints what the upload gives; errors as their class and message, and the whole traceback for what is in it.
UPLOAD = """
import json, logging, sys, traceback
from pathlib import Path
from embedrt.bundle.manifest import open_bundle
from embedrt.hub.remote import upload
logging.basicConfig(level=logging.DEBUG)
folder, repo, options = sys.argv[1:4]
try:
    print(json.dumps(["done", upload(open_bundle(Path(folder)), repo, **json.loads(options))]))
except Exception as error:
    traceback.print_exc()
    print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle with files beside it that are not of the bundle."""
    folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
    (folder / "secret.txt").write_text("not listed")
    (folder / "README.md").write_text("not listed")
    tuned.write(folder, tuned.Tuning(2, tuned.conditions(read_bundle(folder)), "cpu", "float32", 20, (), (), {}))
    return folder


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


class TestCopy:
    def test_exactly_the_files_of_the_bundle(self, bundle: Path, tmp_path: Path, tiny: Embedder) -> None:
        target = store.copy_bundle(open_bundle(bundle), tmp_path / "new" / "copy")
        assert target == tmp_path / "new" / "copy"
        assert files_in(target) == {MANIFEST, *tiny.manifest.files}
        assert read_bundle(target) == tiny.manifest
        np.testing.assert_array_equal(Embedder(target).encode("the cat"), tiny.encode("the cat"))
        assert [path.name for path in target.parent.iterdir()] == ["copy"]

    def test_with_a_card(self, bundle: Path, tmp_path: Path, tiny: Embedder) -> None:
        card = model_card(tiny.manifest)
        target = store.copy_bundle(open_bundle(bundle), str(tmp_path / "copy"), card)
        assert files_in(target) == {MANIFEST, "README.md", *tiny.manifest.files}
        assert (target / "README.md").read_bytes() == card.encode()

    def test_again_to_the_same_place(self, bundle: Path, tmp_path: Path) -> None:
        target = store.copy_bundle(open_bundle(bundle), tmp_path / "copy")
        (target / "notes.txt").write_text("mine")
        before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
        assert store.copy_bundle(open_bundle(bundle), target, "card") == target
        assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before

    def test_onto_itself(self, bundle: Path) -> None:
        assert store.copy_bundle(open_bundle(bundle), bundle) == bundle
        assert (bundle / "secret.txt").exists()

    @pytest.mark.parametrize("kind", ["file", "folder", "another model", "other prompts", "damaged"])
    def test_something_else_is_not_overwritten(self, bundle: Path, tmp_path: Path, kind: str) -> None:
        target = tmp_path / "there"
        if kind == "file":
            target.write_text("mine")
        elif kind == "folder":
            target.mkdir()
            (target / "mine.txt").write_text("mine")
        else:
            copy_bundle(bundle, target)
            edits: dict[str, Any] = {
                "another model": {"fingerprint": "0" * 64},
                "other prompts": {"prompts": {"query": "q: "}},
                "damaged": {"dim": 0},
            }
            change(target, lambda raw: raw.update(edits[kind]))
        before = {path: path.read_bytes() for path in [target, *target.rglob("*")] if path.is_file()}
        with pytest.raises(BundleError, match="choose another folder"):
            store.copy_bundle(open_bundle(bundle), target)
        assert {path: path.read_bytes() for path in [target, *target.rglob("*")] if path.is_file()} == before
        assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []

    def test_a_damaged_bundle_is_not_copied(self, bundle: Path, tmp_path: Path) -> None:
        (bundle / "tokenizer.json").write_bytes(b"{}")
        with pytest.raises(BundleError, match=r"tokenizer\.json: expected \d+ bytes, got 2;"):
            store.copy_bundle(open_bundle(bundle), tmp_path / "copy")
        assert not (tmp_path / "copy").exists()


class Uploads:
    """Uploads in processes of their own."""

    def __init__(self, client: Client, bundle: Path) -> None:
        self.client, self.bundle, self.log = client, bundle, ""

    def __call__(self, repo: str = REPO, environment: dict[str, str] | None = None, **options: Any) -> tuple[str, str]:
        result = self.client.python(
            "-c", UPLOAD, str(self.bundle), repo, json.dumps({"token": TOKEN, **options}), **(environment or {})
        )
        assert result.returncode == 0, result.stderr
        self.log = result.stdout + result.stderr
        outcome, told = json.loads(result.stdout.splitlines()[-1])
        return outcome, told

    def done(self, repo: str = REPO, **options: Any) -> str:
        outcome, address = self(repo, **options)
        assert outcome == "done", self.log
        return address

    def refused(self, repo: str = REPO, **options: Any) -> str:
        outcome, message = self(repo, **options)
        assert outcome == "UploadError", self.log
        return message


@pytest.fixture
def uploads(hub: Hub, client: Client, bundle: Path) -> Uploads:
    hub.token = TOKEN
    return Uploads(client, bundle)


def test_up_and_down_again(hub: Hub, uploads: Uploads, tiny: Embedder) -> None:
    """The files of the bundle and a card, nothing beside them; downloaded, they give the same vectors."""
    address = uploads.done()

    commit = hub.commit(REPO, hub.repos[REPO]["main"])
    assert address == f"{hub.url}/{REPO}/commit/{commit}"
    folder = hub.repos[REPO]["main"]
    assert files_in(folder) == {MANIFEST, "README.md", ".gitattributes", *tiny.manifest.files}
    assert (folder / "README.md").read_text(encoding="utf-8") == model_card(tiny.manifest, REPO)
    assert hub.commits[-1] == {"repo": REPO, "revision": "main", "message": "Add an embedrt bundle"}
    assert len(hub.blobs) >= 3
    assert hub.private == set()

    code = (
        "import json, embedrt, sys\n"
        "model = embedrt.Embedder('org/tiny')\n"
        "print(json.dumps([model.fingerprint, model.encode(['the cat', '']).tolist()]))"
    )
    result = uploads.client.python("-c", code, HF_TOKEN=TOKEN)
    assert result.returncode == 0, result.stderr
    fingerprint, vectors = json.loads(result.stdout)
    assert fingerprint == tiny.fingerprint
    np.testing.assert_allclose(vectors, tiny.encode(["the cat", ""]), atol=1e-7)
    assert files_in(uploads.client.store / "org--tiny") == {MANIFEST, *tiny.manifest.files}


def test_the_token_is_sent_and_never_shown(hub: Hub, uploads: Uploads) -> None:
    uploads.done()
    assert TOKEN not in uploads.log
    sent = {request.path: request.authorization for request in hub.requests}
    with_token = {path for path, authorization in sent.items() if authorization == f"Bearer {TOKEN}"}
    assert {path for path in sent if REPO in path} | {"api/repos/create", "api/validate-yaml"} == with_token
    assert [path for path in sent if path.startswith("blobs/")]  # a signed address wants no token


def test_the_token_of_the_environment(uploads: Uploads) -> None:
    assert "HF_TOKEN" in uploads.refused(token=None)
    outcome, _ = uploads(token=None, environment={"HF_TOKEN": TOKEN})
    assert outcome == "done"
    assert TOKEN not in uploads.log


@pytest.mark.parametrize("token", [f"{TOKEN}\nx", f"{TOKEN}\0", f"{TOKEN}é"], ids=["newline", "nul", "not ASCII"])
def test_a_token_that_no_header_can_hold_is_not_shown(hub: Hub, uploads: Uploads, token: str) -> None:
    """The HTTP library would quote it in its error, and in its log."""
    outcome, message = uploads(token=token)
    assert (outcome, message) == ("ValueError", "token: expected printable ASCII; copy the token again")
    assert TOKEN not in uploads.log
    code = "import embedrt, sys; embedrt.Embedder('org/other', token=eval(sys.argv[1]))"
    result = uploads.client.python("-c", code, ascii(token))
    assert "ValueError: token: expected printable ASCII" in result.stderr
    assert TOKEN not in result.stderr
    assert hub.requests == []


def test_a_token_from_a_file_may_end_with_a_newline(uploads: Uploads) -> None:
    uploads.done(token=f"{TOKEN}\n")
    assert TOKEN not in uploads.log


def test_a_repo_that_exists(hub: Hub, uploads: Uploads) -> None:
    uploads.done()
    message = uploads.refused()
    assert message.startswith(
        f"'{REPO}': the hub rejected the upload: pass exist_ok=True to upload to an existing repo"
    )
    assert "409" in message
    edit_json(uploads.bundle / MANIFEST, prompts={"query": "q: "})
    uploads.done(exist_ok=True, commit_message="Prompts")
    assert hub.commits[-1]["message"] == "Prompts"
    assert read_bundle(hub.repos[REPO]["main"]).prompts == {"query": "q: "}


def test_a_card_that_is_there_is_kept_unless_it_may_be_replaced(hub: Hub, uploads: Uploads, tiny: Embedder) -> None:
    uploads.done()
    (hub.repos[REPO]["main"] / "README.md").write_text("# Mine")
    uploads.done(exist_ok=True)
    assert (hub.repos[REPO]["main"] / "README.md").read_text() == "# Mine"
    uploads.done(exist_ok=True, replace_model_card=True)
    assert (hub.repos[REPO]["main"] / "README.md").read_text(encoding="utf-8") == model_card(tiny.manifest, REPO)


def test_private_and_without_an_organization(hub: Hub, uploads: Uploads) -> None:
    address = uploads.done("tiny", private=True)
    assert address.startswith(f"{hub.url}/somebody/tiny/commit/")
    assert hub.private == {"somebody/tiny"}
    assert "# `somebody/tiny`" in (hub.repos["somebody/tiny"]["main"] / "README.md").read_text(encoding="utf-8")


def test_a_branch(hub: Hub, uploads: Uploads) -> None:
    uploads.done(revision="v2")
    assert MANIFEST in files_in(hub.repos[REPO]["v2"])
    assert files_in(hub.repos[REPO]["main"]) == {".gitattributes"}
    uploads.done(revision="v2", exist_ok=True)


def test_a_pull_request(hub: Hub, uploads: Uploads) -> None:
    uploads.done()
    before = hub.repos[REPO]["main"]
    assert uploads.done(create_pr=True, commit_message="Better") == f"{hub.url}/{REPO}/discussions/1"
    assert hub.repos[REPO]["main"] == before
    assert MANIFEST in files_in(hub.repos[REPO]["refs/pr/1"])


@pytest.mark.parametrize(
    ("path", "status", "remedy"),
    [
        ("api/repos/create", 401, "pass a token with write access by token=, HF_TOKEN or `hf auth login`"),
        ("api/repos/create", 403, "pass a token with write access to this repo"),
        ("preupload/main", 403, "pass a token with write access to this repo"),
        ("objects/batch", 401, "pass a token with write access by"),
        ("commit/main", 403, "pass a token with write access to this repo"),
        ("commit/main", 418, "418"),
        ("validate-yaml", 400, "README.md"),
    ],
)
def test_refusals_of_the_hub(hub: Hub, uploads: Uploads, path: str, status: int, remedy: str) -> None:
    hub.refuse_upload[path] = (status, f"No, {status}")
    message = uploads.refused()
    assert message.startswith(f"'{REPO}': the hub rejected the upload: ")
    assert remedy in message
    assert TOKEN not in uploads.log
    if REPO in hub.repos:
        assert files_in(hub.repos[REPO]["main"]) == {".gitattributes"}


# Timeouts in whole seconds are all that the environment takes, and uploads wait for six times as long.
SHORT = """
import huggingface_hub.constants as constants
constants.HF_HUB_ETAG_TIMEOUT = constants.HF_HUB_DOWNLOAD_TIMEOUT = 0.25
"""


def test_a_hub_that_stops_answering(hub: Hub, client: Client, bundle: Path) -> None:
    """Whichever request stays without an answer, the upload ends with an error."""
    silent = {
        "create": "POST api/repos/create",
        "exists": "HEAD org/exists/resolve/main/README.md",
        "preupload": "POST api/models/org/preupload/preupload/main",
        "batch": "POST org/batch.git/info/lfs/objects/batch",
        "commit": "POST api/models/org/commit/commit/main",
    }
    for name in silent:
        hub.repos[f"org/{name}"] = {}
        hub.write(f"org/{name}", "main", {".gitattributes": b""}, "initial commit")

    def upload(name: str) -> tuple[str, str]:
        options = json.dumps({"exist_ok": True})
        result = client.python("-c", SHORT + UPLOAD, str(bundle), f"org/{name}", options)
        outcome, told = json.loads(result.stdout.splitlines()[-1])
        return outcome, told

    hub.silent = {request for name, request in silent.items() if name != "create"}
    with ThreadPoolExecutor(2) as pool:
        outcomes = dict(zip(silent, pool.map(upload, [name for name in silent if name != "create"]), strict=False))
    hub.silent = {"POST api/repos/create"}
    outcomes["create"] = upload("create")
    hub.silent = {f"PUT blobs/{hashlib.sha256(file.read_bytes()).hexdigest()}" for file in bundle.rglob("*.onnx*")}
    hub.repos["org/create"] = {}
    assert hub.silent
    hub.write("org/create", "main", {".gitattributes": b""}, "initial commit")
    outcomes["blob"] = upload("create")
    for name, (outcome, told) in outcomes.items():
        assert outcome == "UploadError", name
        assert "the hub did not answer within 1.5 s; " in told, (name, told)
    assert not [commit for commit in hub.commits if commit["message"] != "initial commit"]


@pytest.mark.parametrize("repo", ["org/not a name", "a/b/c", "", "../x"])
def test_what_is_no_repo(hub: Hub, uploads: Uploads, repo: str) -> None:
    assert uploads.refused(repo).startswith(f"{repo!r}: the hub rejected the upload: ")
    assert hub.requests == []


def test_no_network(hub: Hub, uploads: Uploads) -> None:
    outcome, message = uploads(environment={"HF_HUB_OFFLINE": "1"})
    assert outcome == "UploadError"
    assert "HF_HUB_OFFLINE" in message
    hub.url = "http://127.0.0.1:9"
    assert uploads.refused().startswith(f"'{REPO}': the hub rejected the upload: ")
    assert hub.requests == []


def test_a_damaged_bundle_is_not_uploaded(hub: Hub, uploads: Uploads) -> None:
    (uploads.bundle / "tokenizer.json").write_bytes(b"{}")
    outcome, message = uploads()
    assert (outcome, " bytes, got 2; get the bundle again" in message) == ("BundleError", True)
    assert hub.requests == []


class TestMethods:
    def test_save_pretrained(
        self, bundle: Path, tmp_path: Path, tiny: Embedder, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = Embedder(bundle)
        model.save_pretrained(tmp_path / "copy")
        assert files_in(tmp_path / "copy") == {MANIFEST, "README.md", *tiny.manifest.files}
        np.testing.assert_array_equal(Embedder(tmp_path / "copy").encode("the cat"), tiny.encode("the cat"))
        assert not caplog.records
        model.save_pretrained(tmp_path / "plain", create_model_card=False)
        assert files_in(tmp_path / "plain") == {MANIFEST, *tiny.manifest.files}

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("prompts", {"query": "q: ", "document": ""}),
            ("default_prompt_name", "query"),
            ("truncate_dim", 8),
            ("similarity_fn_name", "dot"),
            ("max_seq_length", 20),
        ],
    )
    def test_what_was_set_is_in_the_copy(self, bundle: Path, tmp_path: Path, name: str, value: Any) -> None:
        model = Embedder(bundle)
        setattr(model, name, value)
        model.save_pretrained(tmp_path / "copy")
        assert getattr(Embedder(tmp_path / "copy", verify="always"), name) == value

    def test_push_to_hub(self, client: Client, bundle: Path, tiny: Embedder) -> None:
        code = (
            "import sys, embedrt\n"
            "print(embedrt.Embedder(sys.argv[1]).push_to_hub('org/tiny', token=sys.argv[2], commit_message='first'))\n"
        )
        done = client.python("-c", code, str(bundle), TOKEN)
        assert done.returncode == 0, done.stderr
        assert "/org/tiny/commit/" in done.stdout
        loaded = client.python("-c", "import embedrt; print(embedrt.Embedder('org/tiny').encode('the cat').tolist())")
        assert loaded.returncode == 0, loaded.stderr
        assert np.abs(np.array(json.loads(loaded.stdout)) - tiny.encode("the cat")).max() <= 2e-6
