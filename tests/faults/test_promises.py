"""Promises of SECURITY.md that no other test keeps: no network, nothing executed, nothing outside read or written."""

import json
import shutil
from pathlib import Path

import pytest

from tests.kit.models import make_model
from tests.kit.watched import watch

pytestmark = pytest.mark.subprocess

ENCODE = """
import sys
import embedrt
from embedrt.cli.main import main
bundle, texts = sys.argv[1], ["the cat", "", "a river 漢字 🙂 " * 40] * 30
with embedrt.Embedder(bundle) as model:
    model.encode("one text")
    model.encode(texts)
    model.encode(texts, normalize_embeddings=True, truncate_dim=8, show_progress_bar=True)
    model.encode(texts, output_value="token_embeddings")
    model.encode(texts[:9], precision="ubinary")
    model.encode_query("a question")
    model.encode_document(texts)
    list(model.encode_iter(iter(texts)))
    model.encode_long(" ".join(texts))
    model.encode_chunks("the cat, the river", [(0, 7), (9, 18)])
    model.tokenize(texts)
    model.token_count(texts)
    vectors = model.encode(texts)
    model.similarity(vectors[:3], vectors)
    embedrt.semantic_search(vectors[:3], vectors)
    embedrt.save_embeddings("vectors.npy", texts, vectors, model)
    embedrt.load_embeddings("vectors.npy", model)
    embedrt.verify(model)
commands = [["encode", "a text", "--model", bundle], ["encode", "b", "--model", bundle, "--output", "cli.npy"]]
commands += [["info", bundle], ["verify", bundle], ["diff", bundle, bundle], ["list"]]
for command in commands:
    assert main(command) == 0, command
"""


@pytest.mark.slow
def test_encoding_verifying_and_the_commands_use_no_network(tiny_bundle: Path, tmp_path: Path) -> None:
    """Without HF_HUB_OFFLINE, so that nothing but embedrt itself keeps from asking."""
    done = watch(ENCODE, tiny_bundle, folder=tmp_path)
    assert done.network == []
    assert done.sockets == []
    assert done.started == []
    assert done.unpickled == []


@pytest.mark.slow
def test_nothing_but_the_bundle_is_read_and_nothing_but_the_output_written(tiny_bundle: Path, tmp_path: Path) -> None:
    """Besides the cache of verified files in the store's folder."""
    home, secret = tmp_path / "home", tmp_path / "secret.txt"
    home.mkdir()
    secret.write_text("private")
    before = sorted((path, path.stat().st_mtime_ns) for path in tiny_bundle.rglob("*"))
    done = watch(ENCODE, tiny_bundle, folder=home)
    assert sorted((path, path.stat().st_mtime_ns) for path in tiny_bundle.rglob("*")) == before
    assert done.outside(done.read, home, tiny_bundle) == []
    assert done.outside(done.written, home) == []
    left = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert left <= {"vectors.npy", "vectors.npy.json", "cli.npy", "store/verified.json"}
    assert str(tiny_bundle / "embedrt.json") in done.read


CODE = "import pathlib; pathlib.Path({!r}).touch()\n"


def hostile_repo(folder: Path, marker: Path) -> Path:
    """A model that loads as usual, beside code and pickles that leave a marker if anything runs them."""
    make_model(folder, prompts={"query": "__import__('os').system('touch x')", "document": "{0.__class__}"})
    code = CODE.format(str(marker))
    for name in (
        "modeling_own.py",
        "__init__.py",
        "embedrt.py",
        "numpy.py",
        "sitecustomize.py",
        "conftest.py",
        "setup.py",
    ):
        (folder / name).write_text(code)
    pickle = b"cposix\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "1_Pooling/pytorch_model.bin"):
        (folder / name).write_bytes(pickle)
    config = json.loads((folder / "config.json").read_bytes())
    config.update(transformers_version="5.0", custom_pipelines={"x": {"impl": "modeling_own.Own"}})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "chat_template": "{{ self.__init__.__globals__ }}"})
    )
    return folder


EXPORT = """
import sys, embedrt
embedrt.export(sys.argv[1], sys.argv[2])
embedrt.Embedder(sys.argv[2]).encode(["the cat"] * 3, prompt_name="query")
"""


@pytest.mark.slow
def test_nothing_in_a_model_repo_is_executed(tmp_path: Path) -> None:
    """Also from inside its folder, where Python would find its modules."""
    marker, home = tmp_path / "marker", tmp_path / "home"
    home.mkdir()
    repo = hostile_repo(home / "repo", marker)
    done = watch(EXPORT, repo, home / "bundle", folder=home)
    assert not marker.exists()
    assert done.unpickled == []
    assert done.started == []
    assert done.network == []
    assert [path for path in done.compiled if str(repo) in path or str(home / "bundle") in path] == []
    assert done.outside(done.read, home) == []
    assert done.outside(done.written, home) == []
    assert not [path for path in done.read if path.endswith((".py", ".bin", ".pt")) and str(repo) in path]


def test_nothing_in_a_bundle_is_executed(tiny_bundle: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    bundle = tmp_path / "home" / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    for name in ("embedrt.py", "onnxruntime.py", "sitecustomize.py", "onnx/__init__.py"):
        (bundle / name).write_text(CODE.format(str(marker)))
    done = watch("import sys, embedrt; embedrt.Embedder(sys.argv[1]).encode('a')", bundle, folder=tmp_path / "home")
    assert not marker.exists()
    assert done.unpickled == []
    assert done.started == []
    assert [path for path in done.compiled if str(bundle) in path] == []
    assert not [path for path in done.read if path.startswith(str(bundle)) and path.endswith(".py")]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("import socket; socket.socket().close()", "network"),
        ("import socket; socket.getaddrinfo('localhost', 80)", "network"),
        ("open('/bin/sh', 'rb').close()", "read"),
        ("open('x', 'w').close()", "written"),
        ("import os; os.mkdir('x')", "written"),
        ("import subprocess; subprocess.run(['true'])", "started"),
        ("import os; os.system('true')", "started"),
        ("import pickle; pickle.loads(b'cbuiltins\\nlen\\n.')", "unpickled"),
        ("exec(compile('1', '/repo/evil.py', 'exec'))", "compiled"),
        ("import socket; kept = socket.socket()", "sockets"),
    ],
)
def test_the_watch_sees(code: str, kind: str, tmp_path: Path) -> None:
    done = watch(code + "\n", folder=tmp_path)
    assert [found for found in getattr(done, kind) if kind != "read" or found == "/bin/sh"]
    if kind == "compiled":
        assert "/repo/evil.py" in done.compiled
