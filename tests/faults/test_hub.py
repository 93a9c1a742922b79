"""The hub, over real HTTP to a server in this process: what is asked for, what is recorded, and every refusal."""

import json
import re
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import Embedder
from embedrt.bundle.manifest import read_bundle
from embedrt.verify.bundle import verify
from embedrt_export import export
from tests.kit.bodies import body_of, write_body
from tests.kit.edits import edit_json
from tests.kit.hub_client import Client
from tests.kit.hub_server import Hub
from tests.kit.lora_adapters import lora, write_adapter
from tests.kit.models import make_model, vocabulary

pytestmark = pytest.mark.subprocess

TOKEN = "hf_THISISSECRETandmuchlonger"
REPO = "org/tiny"
ENCODE = ("encode", "the cat", "--device", "cpu", "--model")


@pytest.fixture
def bundle_repo(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle as a repo, with files that are not of the bundle."""
    repo = tmp_path / "repo"
    shutil.copytree(tiny_bundle, repo)
    (repo / "README.md").write_text("# A bundle")
    (repo / ".gitattributes").write_text("*.data filter=lfs")
    (repo / "onnx" / "model_int8.onnx").write_bytes(b"not listed")
    return repo


def test_export_by_hub_id(hub: Hub, client: Client, tiny_source: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """Only what the export reads is downloaded: no other runtime's copy, no pickles, no pictures."""
    repo = tmp_path / "repo"
    shutil.copytree(tiny_source, repo)
    others = ["onnx/model.onnx", "onnx/config.json", "openvino/openvino_model.xml", "openvino/model.safetensors"]
    others += ["pytorch_model.bin", "tf_model.h5", "rust_model.ot", "README.md", "vocab.txt", ".gitattributes", "a.png"]
    for name in others:
        (repo / name).parent.mkdir(exist_ok=True)
        (repo / name).write_bytes(b"not needed")
    wanted = sorted(path.relative_to(tiny_source).as_posix() for path in tiny_source.rglob("*") if path.is_file())
    commit = hub.add(REPO, repo)

    result = client.python("-m", "embedrt", "export", REPO)

    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == str(client.store / "org--tiny")
    assert hub.downloads() == wanted
    manifest = read_bundle(client.store / "org--tiny")
    assert (manifest.name, manifest.source.kind, manifest.source.id) == (REPO, "hub", REPO)
    assert manifest.source.revision == commit
    assert manifest.fingerprint == read_bundle(tiny_bundle).fingerprint
    assert client.stored() == ["org--tiny"]
    assert not any(path.is_symlink() for path in client.store.rglob("*"))


def test_vocabulary_files_are_downloaded_where_there_is_no_tokenizer_json(
    hub: Hub, client: Client, tiny_source: Path, tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    shutil.copytree(tiny_source, repo)
    (repo / "tokenizer.json").unlink()
    for name in ("merges.txt", "tokenizer.md", "other.txt"):
        (repo / name).write_bytes(b"not read")
    (repo / "vocab.txt").write_text("\n".join(vocabulary("bert")), encoding="utf-8")
    hub.add(REPO, repo)

    result = client.python("-m", "embedrt", "export", REPO)

    assert result.returncode == 0, result.stderr
    assert {"vocab.txt", "merges.txt"} <= set(hub.downloads())
    assert not {"tokenizer.md", "other.txt"} & set(hub.downloads())
    assert read_bundle(client.store / "org--tiny").routes["default"].tokenization.pad_id == 0


def test_adapter_whose_base_is_another_repo(hub: Hub, client: Client, tmp_path: Path) -> None:
    """The base is fetched at the revision that the adapter names, and nothing of it but config and weights."""
    base, other = make_model(tmp_path / "base"), make_model(tmp_path / "other", seed=4)
    queries = [f"encoder.layer.{i}.attention.self.query" for i in range(2)]
    whole = write_adapter(make_model(tmp_path / "whole"), lora(dict.fromkeys(queries, (32, 32)), 4))
    expected = read_bundle(export(whole, tmp_path / "expected")).fingerprint
    adapter = tmp_path / "adapter"
    shutil.copytree(whole, adapter)
    for name in ("config.json", "model.safetensors"):
        (adapter / name).unlink()
    edit_json(adapter / "adapter_config.json", base_model_name_or_path="org/base", revision="v1")
    hub.add("org/base", other)
    hub.add("org/base", base, "v1")
    hub.add(REPO, adapter)

    client.command("export", REPO).succeeded()

    assert read_bundle(client.store / "org--tiny").fingerprint == expected
    assert hub.downloads().count("model.safetensors") == 1
    assert hub.downloads().count("tokenizer.json") == 1
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=str(base))
    hub.add("org/thief", adapter)
    assert "is not a folder on this machine" in client.command("export", "org/thief").refused()
    assert client.stored() == ["org--tiny"]


def test_only_the_body_is_downloaded_where_it_is_taken(
    hub: Hub, client: Client, tiny_source: Path, tiny_bundle: Path, tiny: Embedder, tmp_path: Path
) -> None:
    """Weights beside the ONNX file come along, under whatever names; the same weights in safetensors do not."""
    options: dict[str, Any] = {"save_as_external_data": True, "all_tensors_to_one_file": False, "size_threshold": 2048}
    repo = write_body(tiny_source, tmp_path / "repo", body_of(tiny_bundle), **options)
    edit_json(repo / "config.json", model_type="unheard-of")
    wanted = {path.relative_to(repo).as_posix() for path in repo.rglob("*") if path.is_file()} - {"model.safetensors"}
    assert len([name for name in wanted if name.startswith("onnx/")]) > 2
    (repo / "onnx" / "model_quantized.onnx").write_bytes(b"not needed")
    (repo / "onnx" / "unrelated.data").write_bytes(b"not needed")
    hub.add(REPO, repo)
    client.command("export", REPO).succeeded()
    assert hub.downloads() == sorted(wanted)
    embedder = Embedder(client.store / "org--tiny")
    assert embedder.manifest.routes["default"].via == "onnx"
    assert np.abs(embedder.encode("the cat") - tiny.encode("the cat")).max() <= 1e-6


def test_revision_is_recorded_as_its_commit(hub: Hub, client: Client, tiny_source: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=3)
    main, branch = hub.add(REPO, tiny_source), hub.add(REPO, other, "v2")
    assert main != branch
    bundle = tmp_path / "bundle"

    *exported, unknown = client.commands(
        ["export", REPO, "--revision", "v2"],
        ["export", REPO],
        ["export", REPO, "--revision", branch, "-o", str(bundle)],
        ["export", REPO, "--revision", "v3"],
    )

    for finished in exported:
        finished.succeeded()
    assert client.stored() == ["org--tiny", "org--tiny@v2"]
    assert read_bundle(client.store / "org--tiny@v2").source.revision == branch
    assert read_bundle(client.store / "org--tiny").source.revision == main
    assert read_bundle(bundle).source.revision == branch
    assert f"'{REPO}' at revision 'v3' is not in the local store" in unknown.refused()


def test_token_is_sent_and_never_shown(hub: Hub, client: Client, tiny_source: Path) -> None:
    hub.add(REPO, tiny_source)
    hub.token = TOKEN
    without = client.command("export", REPO).refused()
    assert f"'{REPO}' is not in the local store, and the hub does not provide it: " in without
    assert "401" in without
    assert hub.authorizations() == {None}
    wrong = client.command("export", REPO, HF_TOKEN="hf_WRONG")
    assert "401" in wrong.refused()
    assert "hf_WRONG" not in wrong.errors
    hub.requests.clear()

    result = client.command("export", REPO, HF_TOKEN=TOKEN)

    assert TOKEN not in result.succeeded() + result.errors
    assert hub.authorizations() == {f"Bearer {TOKEN}"}
    assert hub.downloads()
    for path in client.store.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes()


REFUSALS = {
    "org/private": (401, "RepoNotFound", "Repository not found", "repository not found"),
    "org/unknown": (404, "RepoNotFound", "Repository not found", "repository not found"),
    "org/gated": (403, "GatedRepo", "Access to model org/tiny is restricted", "cannot access gated repo"),
    "org/gated-without-token": (401, "GatedRepo", "Access to model is restricted", "cannot access gated repo"),
    "org/disabled": (403, "", "Access to this resource is disabled.", "access to this resource is disabled"),
    "org/teapot": (418, "", "I am a teapot", "i am a teapot"),
}


def test_refusals_of_the_hub(hub: Hub, client: Client, tiny_source: Path) -> None:
    for repo, (status, code, message, _) in REFUSALS.items():
        hub.add(repo, tiny_source)
        hub.refuse[repo] = (status, code, message)
    for (repo, (status, *_, shown)), finished in zip(
        REFUSALS.items(), client.commands(*(["export", repo] for repo in REFUSALS)), strict=True
    ):
        text = finished.refused()
        assert text.startswith(f"embedrt: '{repo}' is not in the local store, and the hub does not provide it: ")
        assert str(status) in text
        assert shown in text.lower()
        assert finished.errors == text
    assert hub.downloads() == []
    assert client.stored() == []


def test_no_such_repo(hub: Hub, client: Client) -> None:
    for name, finished in zip(
        ("org/nothing", "nothing"), client.commands(["export", "org/nothing"], [*ENCODE, "nothing"]), strict=True
    ):
        assert f"'{name}' is not in the local store, and the hub does not provide it" in finished.refused()


def test_no_server(hub: Hub, client: Client) -> None:
    hub.url = "http://127.0.0.1:9"
    text = client.command("export", REPO).refused()
    assert f"'{REPO}' is not in the local store, and the hub does not provide it" in text
    assert client.stored() == []


def test_bundle_on_the_hub(hub: Hub, client: Client, bundle_repo: Path, tiny: Embedder) -> None:
    """Downloaded into the store: the manifest, then what it lists, and nothing else."""
    hub.add(REPO, bundle_repo)
    output = client.command(*ENCODE, REPO).succeeded()
    np.testing.assert_allclose(json.loads(output), tiny.encode("the cat"), atol=1e-7)
    assert hub.downloads() == sorted(["embedrt.json", *tiny.manifest.files])
    place = client.store / "org--tiny"
    assert client.stored() == ["org--tiny"]
    files = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert files == {"embedrt.json", *tiny.manifest.files}
    assert verify(Embedder(place))

    hub.requests.clear()
    assert client.command(*ENCODE, REPO).succeeded() == output
    assert hub.requests == []


def test_bundle_at_a_revision(hub: Hub, client: Client, bundle_repo: Path) -> None:
    hub.add(REPO, bundle_repo, "v2")
    result = client.python("-c", "import embedrt; embedrt.Embedder('org/tiny', revision='v2').encode('a')")
    assert result.returncode == 0, result.stderr
    assert client.stored() == ["org--tiny@v2"]


def flip(path: Path) -> None:
    """Changes one bit."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def add_file(repo: Path, name: str, size: int = 1, sha256: str = "0" * 64) -> None:
    """Lists one more file in a bundle's manifest."""
    files = json.loads((repo / "embedrt.json").read_bytes())["files"]
    edit_json(repo / "embedrt.json", files={**files, name: {"size": size, "sha256": sha256}})


BAD_BUNDLES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "org/flipped-weights": (lambda repo: flip(repo / "onnx/model.onnx_data"), "model.onnx_data: expected SHA-256"),
    "org/flipped-tokenizer": (lambda repo: flip(repo / "tokenizer.json"), "tokenizer.json: expected SHA-256"),
    "org/flipped-config": (lambda repo: flip(repo / "modules.json"), "modules.json: expected SHA-256"),
    "org/longer": (
        lambda repo: (repo / "tokenizer.json").write_bytes(b" " * 9999),
        "bytes, got 9999; get",
    ),
    "org/incomplete": (lambda repo: (repo / "tokenizer.json").unlink(), "listed in the manifest, but missing"),
    "org/outside": (lambda repo: add_file(repo, "../../evil"), "'../../evil' is not a plain path inside the bundle"),
    "org/absolute": (
        lambda repo: add_file(repo, "/a/evil"),
        "'/a/evil' is not a plain path inside the bundle",
    ),
    "org/windows": (lambda repo: add_file(repo, "a\\evil"), "is not a plain path inside the bundle"),
    "org/later": (lambda repo: edit_json(repo / "embedrt.json", format_version=4), "expected format version 3, got 4"),
    "org/not-json": (lambda repo: (repo / "embedrt.json").write_bytes(b"{"), "not valid JSON"),
}


def test_bad_bundles_on_the_hub(hub: Hub, client: Client, bundle_repo: Path, tmp_path: Path) -> None:
    for repo, (damage, _) in BAD_BUNDLES.items():
        shutil.copytree(bundle_repo, tmp_path / repo)
        damage(tmp_path / repo)
        hub.add(repo, tmp_path / repo)
    for (repo, (_, message)), finished in zip(
        BAD_BUNDLES.items(), client.commands(*([*ENCODE, repo] for repo in BAD_BUNDLES)), strict=True
    ):
        assert message in finished.refused(), repo
    assert client.stored() == []


def test_names_of_files_that_look_like_patterns(hub: Hub, client: Client, bundle_repo: Path) -> None:
    """`[a-z]` in a file's name is a name, and asks for no other file."""
    (bundle_repo / "[a-z]_model.onnx").write_bytes(b"x")
    add_file(bundle_repo, "[a-z]_model.onnx", 1, "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881")
    (bundle_repo / "b_model.onnx").write_bytes(b"not asked for")
    hub.add(REPO, bundle_repo)
    client.command(*ENCODE, REPO).succeeded()
    assert "[a-z]_model.onnx" in hub.downloads()
    assert "b_model.onnx" not in hub.downloads()


def test_model_on_the_hub_is_exported_on_the_spot(hub: Hub, client: Client, tiny_source: Path, tiny: Embedder) -> None:
    commit = hub.add(REPO, tiny_source)
    output = client.command(*ENCODE, REPO).succeeded()
    np.testing.assert_allclose(json.loads(output), tiny.encode("the cat"), atol=1e-7)
    assert read_bundle(client.store / "org--tiny").source.revision == commit
    assert client.stored() == ["org--tiny"]


def test_connection_cut_midway(hub: Hub, client: Client, bundle_repo: Path, tiny_source: Path) -> None:
    """The server promises all bytes, sends half, hangs up, and refuses the rest."""
    hub.add("org/bundle", bundle_repo)
    hub.add("org/model", tiny_source)
    hub.cut = {"tokenizer.json"}
    with ThreadPoolExecutor(2) as pool:  # the client waits a second before each of its five further tries
        bundle = pool.submit(client.command, *ENCODE, "org/bundle")
        model = pool.submit(client.command, "export", "org/model")
    assert "'org/bundle': download failed" in bundle.result().refused()
    assert "'org/model': download failed" in model.result().refused()
    assert client.stored() == []
    hub.cut = set()
    for finished in client.commands([*ENCODE, "org/bundle"], ["export", "org/model"]):
        finished.succeeded()
    assert client.stored() == ["org--bundle", "org--model"]


SECOND = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
NO_ANSWER = "the hub did not answer within 1 s; try again later, set HF_HUB_DOWNLOAD_TIMEOUT to more seconds, or check "


def test_a_hub_that_accepts_and_never_answers(hub: Hub, client: Client, bundle_repo: Path) -> None:
    """No answer within the timeout is an error, and the hub is not asked under a second name then; the store works."""
    hub.add("org/stored", bundle_repo)
    stored = client.command(*ENCODE, "org/stored").succeeded()
    hub.requests.clear()
    hub.silent = {"GET api/models/org/tiny", "GET api/models/sentence-transformers/tiny", "GET api/models/org/stored"}
    missing = client.commands([*ENCODE, "org/tiny"], [*ENCODE, "tiny"], ["export", "org/tiny"], **SECOND)
    for finished in missing:
        assert f"/tiny' is not in the local store, and {NO_ANSWER}" in finished.refused()
    assert len(asked := [request.path for request in hub.requests if "models" in request.path]) == 3, asked
    hub.requests.clear()
    assert client.command(*ENCODE, "org/stored", **SECOND).succeeded() == stored
    assert hub.requests == []


def test_a_hub_that_stops_answering_during_a_download(
    hub: Hub, client: Client, bundle_repo: Path, tiny_source: Path
) -> None:
    """Whichever request stays without an answer, it is sent twice at most, also by the client's own repetitions."""
    listed = hub.add("org/list", bundle_repo)
    faults = {
        "list": (f"GET org/list/tree/{listed}", f"GET org/list/revision/{listed}"),  # by the client's version
        "head": (f"HEAD org/head/resolve/{hub.add('org/head', bundle_repo)}/tokenizer.json",),
        "body": (f"GET org/body/resolve/{hub.add('org/body', bundle_repo)}/tokenizer.json",),
        "model": (f"GET org/model/resolve/{hub.add('org/model', tiny_source)}/config.json",),
    }
    hub.silent = {request for requests in faults.values() for request in requests}

    def load(name: str) -> str:
        command = ["export"] if name == "model" else ENCODE
        return client.command(*command, f"org/{name}", **SECOND).refused()

    with ThreadPoolExecutor(2) as pool:
        messages = dict(zip(faults, pool.map(load, faults), strict=True))
    for name, message in messages.items():
        assert f"'org/{name}': download failed: {NO_ANSWER}" in message
        asked = [f"{request.method} {request.path.removeprefix('api/models/')}" for request in hub.requests]
        assert 1 <= sum(asked.count(request) for request in faults[name]) <= 2, name
    assert client.stored() == []
    hub.silent = set()
    client.command(*ENCODE, "org/head").succeeded()


def test_a_body_that_stalls_midway(hub: Hub, client: Client, bundle_repo: Path) -> None:
    hub.add(REPO, bundle_repo)
    hub.stalled = {"tokenizer.json"}
    assert f"'{REPO}': download failed: {NO_ANSWER}" in client.command(*ENCODE, REPO, **SECOND).refused()
    assert hub.downloads().count("tokenizer.json") <= 3  # from the first byte, and twice from the middle
    assert client.stored() == []


# The client waits between its tries, for 23 s in all.
IMPATIENT = "import time; time.sleep = lambda seconds: None\n"


@pytest.mark.parametrize(
    ("status", "headers", "told"),
    [
        (404, {}, "HTTP 404 for 'tokenizer.json': "),
        (429, {}, "HTTP 429 for 'tokenizer.json': "),
        (429, {"Retry_After": "999999999"}, "HTTP 429 for .*; the server asks to wait 999999999 s"),
        (500, {}, "HTTP 500 for 'tokenizer.json': "),
    ],
)
def test_a_refused_file_is_told_with_its_status(
    hub: Hub, client: Client, bundle_repo: Path, status: int, headers: dict[str, str], told: str
) -> None:
    commit = hub.add(REPO, bundle_repo)
    for method in ("HEAD", "GET"):
        hub.answers = {f"{method} org/tiny/resolve/{commit}/tokenizer.json": (status, headers)}
        result = client.python("-c", f"{IMPATIENT}import embedrt; embedrt.Embedder('org/tiny')", **SECOND)
        message = result.stderr.splitlines()[-1] if "Error: " in result.stderr.splitlines()[-1] else result.stderr
        assert re.search(f"ModelNotFoundError: 'org/tiny': download failed: {told}", message), message
        assert "internet connection" not in message
    assert client.stored() == []


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="the platform has no SIGALRM")
@pytest.mark.parametrize("error", ["Deadline", "TimeoutError"])
@pytest.mark.parametrize("request_end", ["api/models/org/tiny", "tokenizer.json"])
def test_a_deadline_of_the_caller_passes_through(
    hub: Hub, client: Client, bundle_repo: Path, error: str, request_end: str
) -> None:
    """The alarm rings while the hub is silent; what its handler raises comes out as it is."""
    commit = hub.add(REPO, bundle_repo)
    end = f"HEAD org/tiny/resolve/{commit}/tokenizer.json" if request_end == "tokenizer.json" else f"GET {request_end}"
    hub.silent = {end}
    code = f"""
import signal, huggingface_hub, embedrt, embedrt.hub.remote
from huggingface_hub import snapshot_download, HfApi
class Deadline(Exception): pass
def ring(*arguments):
    raise {error}("too late")
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.7)
try:
    embedrt.Embedder("org/tiny")
except {error} as error:
    print(type(error).__name__, error)
"""
    result = client.python("-c", code, HF_HUB_ETAG_TIMEOUT="2", HF_HUB_DOWNLOAD_TIMEOUT="2")
    assert result.stdout == f"{error} too late\n", result.stderr
    assert client.stored() == []


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_asks_nothing(hub: Hub, client: Client, bundle_repo: Path, variable: str) -> None:
    hub.add(REPO, bundle_repo)
    encode, export = client.commands([*ENCODE, REPO], ["export", REPO], **{variable: "1"})
    assert f"'{REPO}' is not in the local store" in encode.refused()
    assert f"`embedrt export {REPO} -o FOLDER`" in encode.refused()
    assert f"'{REPO}' is not in the local store" in export.refused()
    assert hub.requests == []


def test_local_files_only_asks_nothing(hub: Hub, client: Client, bundle_repo: Path) -> None:
    hub.add(REPO, bundle_repo)
    result = client.python("-c", "import embedrt; embedrt.Embedder('org/tiny', local_files_only=True)")
    assert "ModelNotFoundError: 'org/tiny' is not in the local store" in result.stderr
    assert "the network may not be used" in result.stderr
    (info,) = client.commands(["info", REPO])
    assert f"'{REPO}' is not in the local store" in info.refused()
    assert hub.requests == []


def test_without_the_extra_the_message_says_what_to_install(hub: Hub, client: Client, tiny_source: Path) -> None:
    hub.add(REPO, tiny_source)
    code = (
        "import importlib.util as u, embedrt.hub.resolve as s; find = u.find_spec\n"
        "s.find_spec = lambda name: None if name == 'onnx' else find(name)\n"
        "import embedrt; embedrt.Embedder('org/tiny')"
    )
    result = client.python("-c", code)
    assert "ModelNotFoundError: 'org/tiny' on the hub is a model, not a bundle" in result.stderr
    assert "pip install 'embedrt[export]'" in result.stderr
    assert hub.downloads() == []


def test_repo_of_transformers_is_exported_and_one_without_a_model_refused(
    hub: Hub, client: Client, tiny_source: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_source, tmp_path / "plain")
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (tmp_path / "plain" / name).unlink()
    (tmp_path / "empty").mkdir()
    hub.add("org/plain", tmp_path / "plain")
    hub.add("org/empty", tmp_path / "empty")

    message = client.command("export", "org/empty").refused()
    assert "embedrt: org/empty: expected modules.json or config.json, found neither; it is not a model" in message
    assert hub.downloads() == []

    client.command("export", "org/plain").succeeded()
    route = read_bundle(client.store / "org--plain").routes["default"]
    assert [module.type for module in route.modules] == ["Transformer", "Pooling"]
    assert client.stored() == ["org--plain"]
