"""Reading a bundle: every damage is an error of its own that names the file and the remedy."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedrt
from embedrt import BundleError, DeviceError, Embedder
from embedrt.bundle.manifest import MANIFEST, read_bundle, read_manifest, write_manifest
from tests.kit.bundles import Json, change, copy_bundle, edit_graph, read_raw, rehash, write_raw

GRAPH = "onnx/model.onnx"
DATA = "onnx/model.onnx_data"
posix_only = pytest.mark.skipif(os.name == "nt", reason="Windows needs privileges for links and has no FIFO in folders")


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return copy_bundle(tiny_bundle, tmp_path / "bundle")


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Ends what waits for a writer of a FIFO, with a TimeoutError."""

    def expire(*_: Any) -> None:
        raise TimeoutError(f"nothing came in {seconds} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def error_of(folder: Path) -> str:
    """The message of the BundleError that reading gives, by all ways to read."""
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    with pytest.raises(BundleError) as again:
        Embedder(folder)
    assert str(again.value) == str(caught.value)
    return str(caught.value)


def test_a_sound_bundle_is_read(bundle: Path) -> None:
    manifest = read_bundle(bundle)
    assert (manifest.routes["default"].architecture, manifest.dim, manifest.routes["default"].max_seq_length) == (
        "bert",
        32,
        48,
    )
    assert [(one.file, one.devices) for one in manifest.routes["default"].variants] == [
        ("onnx/model_cpu.onnx", ("cpu",)),
        ("onnx/model.onnx", ()),
    ]
    assert manifest.dtypes == ("float32",)
    assert read_manifest(bundle) == manifest


def test_a_written_manifest_reads_the_same(bundle: Path) -> None:
    manifest = read_bundle(bundle)
    before = (bundle / MANIFEST).read_bytes()
    write_manifest(bundle, manifest)
    assert (bundle / MANIFEST).read_bytes() == before


class TestManifest:
    def test_absent_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="absent: no such folder"):
            read_bundle(tmp_path / "absent")

    def test_a_file_instead_of_the_folder(self, bundle: Path) -> None:
        with pytest.raises(BundleError, match="no such folder"):
            read_bundle(bundle / MANIFEST)

    def test_no_manifest(self, bundle: Path) -> None:
        (bundle / MANIFEST).unlink()
        assert f"not a bundle, it has no {MANIFEST}; `embedrt export {bundle}` makes one" in error_of(bundle)

    @pytest.mark.parametrize(
        ("version", "source", "remedy"),
        [
            (4, {}, "update embedrt"),
            (1, {}, "upgrade it with `embedrt export SOURCE -o {bundle} --overwrite`"),
            (2, {"kind": "hub", "id": "org/model"}, "`embedrt export org/model -o {bundle} --overwrite`"),
            (
                2,
                {"kind": "hub", "id": "org/model", "revision": "abc"},
                "`embedrt export org/model --revision abc -o {bundle} --overwrite`",
            ),
            (
                2,
                {"kind": "package", "id": "a-model", "revision": "1"},
                "export package:a_model -o {bundle} --overwrite`",
            ),
            (2, {"kind": "hub", "id": "$(rm -r ~)", "revision": "; x"}, "export SOURCE -o {bundle} --overwrite`"),
            (2, {"kind": "hub", "id": "-x"}, "export SOURCE -o {bundle} --overwrite`"),
            (2, {"kind": "folder", "id": "model"}, "export SOURCE -o {bundle} --overwrite`"),
            (2, "nonsense", "export SOURCE -o {bundle} --overwrite`"),
            (2, {"kind": ["hub"], "id": 3}, "export SOURCE -o {bundle} --overwrite`"),
        ],
    )
    def test_other_format_version(self, bundle: Path, version: int, source: Any, remedy: str) -> None:
        change(bundle, lambda raw: raw.update(format_version=version, source=source))
        error = error_of(bundle)
        assert f"{MANIFEST}: expected format version 3, got {version}; " in error
        assert error.endswith(remedy.format(bundle=bundle))

    def test_a_newer_version_is_told_before_its_unknown_fields(self, bundle: Path) -> None:
        change(bundle, lambda raw: raw.update(format_version=9, novelty=1))
        assert "expected format version 3, got 9" in error_of(bundle)

    @pytest.mark.parametrize("version", ["1", 1.0, True, None])
    def test_mistyped_format_version(self, bundle: Path, version: Any) -> None:
        change(bundle, lambda raw: raw.update(format_version=version))
        assert f"{MANIFEST}.format_version: expected an integer" in error_of(bundle)

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda raw: raw.pop("tasks"), "embedrt.json: missing field 'tasks'"),
            (lambda raw: raw.pop("format_version"), "embedrt.json: missing field 'format_version'"),
            (lambda raw: raw["source"].pop("kind"), "embedrt.json.source: missing field 'kind'"),
            (lambda raw: raw.update(extra=1), "embedrt.json: unknown field 'extra'"),
            (
                lambda raw: raw["routes"]["default"]["tokenization"].update(x=1),
                "embedrt.json.routes.default.tokenization: unknown field 'x'",
            ),
            (lambda raw: raw.update(task="sing"), "embedrt.json.task: expected one of 'embed', 'score', "),
            (
                lambda raw: raw["routes"]["default"]["outputs"]["sentence_embedding"].update(width="32"),
                "outputs.sentence_embedding.width: expected an integer, got str '32'",
            ),
            (lambda raw: raw["source"].update(kind="disk"), "embedrt.json.source.kind: expected one of 'hub', "),
            (
                lambda raw: raw["routes"]["default"]["variants"][0].update(operators="cuda"),
                "variants[0].operators: expected one of 'portable', 'onnxruntime', got str 'cuda'",
            ),
            (
                lambda raw: raw["routes"]["default"]["variants"][1].update(layout="flat"),
                "variants[1].layout: expected one of 'padded', 'packed', got str 'flat'",
            ),
            (
                lambda raw: raw["routes"]["default"]["variants"][1].update(dtype="fp32"),
                "variants[1].dtype: expected one of float32, float16, bfloat16, int8, got 'fp32'",
            ),
            (
                lambda raw: raw["routes"]["default"]["variants"][0]["proof"].update(kind="hope"),
                "variants[0].proof.kind: expected one of 'parity', 'quality', 'ranks', got str 'hope'",
            ),
            (
                lambda raw: raw["routes"]["default"]["variants"][0]["proof"].pop("kind"),
                "variants[0].proof: missing field 'kind'",
            ),
            (
                lambda raw: raw["routes"]["default"]["variants"][0]["proof"].update(kind="quality"),
                "variants[0].proof: unknown field 'independent'; known: kind, method, ",
            ),
            (
                lambda raw: raw["routes"]["default"]["modules"].append("Dense"),
                "embedrt.json.routes.default.modules[3]: expected an object",
            ),
            (
                lambda raw: raw["routes"]["default"]["outputs"]["sentence_embedding"].update(width=0),
                "routes.default.outputs.sentence_embedding.width: expected 1 to 1048576, got 0",
            ),
            (
                lambda raw: raw["routes"]["default"]["outputs"]["token_embeddings"].update(width=-1),
                "routes.default.outputs.token_embeddings.width: expected 1 to 1048576, got -1",
            ),
            (
                lambda raw: raw["routes"]["default"]["outputs"].pop("sentence_embedding"),
                "routes.default.outputs: expected one of kind 'sentence', got 0",
            ),
            (
                lambda raw: raw["routes"]["default"]["outputs"]["token_embeddings"].update(kind="sentence"),
                "routes.default.outputs: expected one of kind 'sentence', got 2",
            ),
            (lambda raw: raw.update(task="score"), "routes.default.outputs: expected one of kind 'scores', got 0"),
            (
                lambda raw: raw["routes"].update(query=with_width(raw["routes"]["default"], 16)),
                "routes.query.outputs: expected width 32, as in the first route, got 16",
            ),
            (
                lambda raw: raw["routes"].update(query={**raw["routes"]["default"], "variants": []}),
                "routes.query.variants: expected at least one, got none",
            ),
            (
                lambda raw: raw["routes"].update(query=with_dtype(raw["routes"]["default"], "int8")),
                "routes.query.variants: expected the dtypes float32, as in the first route, got int8",
            ),
            (
                lambda raw: raw["routes"]["default"].update(max_seq_length=0),
                "max_seq_length: expected 1 to 2147483647, got 0",
            ),
            (lambda raw: raw.update(truncate_dim=33), "truncate_dim: expected 1 to 32, got 33"),
            (lambda raw: raw.update(truncate_dim=0), "truncate_dim: expected 1 to 32, got 0"),
            (lambda raw: raw.update(default_prompt_name="q"), "default_prompt_name: 'q' is not among the prompts []"),
            (
                lambda raw: raw["routes"]["default"]["tokenization"].update(pad_id=-1),
                "tokenization.pad_id: expected 0 to 2147483647, got -1",
            ),
            (
                lambda raw: raw["routes"]["default"]["tokenization"].update(pad_id=133),
                "tokenization.pad_id: expected less than embedding_rows, 133, got 133",
            ),
            (
                lambda raw: raw["routes"]["default"].update(variants=[]),
                "routes.default.variants: expected at least one, got none",
            ),
            (lambda raw: raw.update(routes={}, tasks={}), "routes: expected at least one, got none"),
            (lambda raw: raw["tasks"].update(query="q"), "tasks.query: unknown route 'q'"),
            (
                lambda raw: raw["routes"]["default"]["variants"][1].update(proof=None),
                "routes.default.variants[1].proof: missing; export the model again",
            ),
            (lambda raw: raw["tasks"].clear(), "tasks: expected at least one, got none"),
            (
                lambda raw: raw.update(similarity_fn_name="jaccard"),
                "similarity_fn_name: expected one of cosine, dot, euclidean, manhattan or null, got 'jaccard'",
            ),
            (
                lambda raw: raw["routes"]["default"].update(max_seq_length=10**30),
                "routes.default.max_seq_length: expected 1 to 2147483647, got 1000000000000000000000000000000",
            ),
            (
                lambda raw: raw["routes"]["default"].update(max_seq_length=65),
                "routes.default.max_seq_length: expected at most position_limit, 64, got 65",
            ),
            (
                lambda raw: raw["routes"]["default"].update(parity_max_seq_length=None),
                "routes.default.parity_max_seq_length: expected at most position_limit, 64, got None",
            ),
            (
                lambda raw: raw["routes"]["default"]["tokenization"].update(pad_id=2**64),
                "tokenization.pad_id: expected 0 to 2147483647, got 18446744073709551616",
            ),
            (
                lambda raw: raw["routes"]["default"]["outputs"]["sentence_embedding"].update(width=2**40),
                "outputs.sentence_embedding.width: expected 1 to 1048576, got 1099511627776",
            ),
            (
                lambda raw: raw["routes"]["default"]["outputs"].update(
                    other=raw["routes"]["default"]["outputs"].pop("sentence_embedding")
                ),
                "routes.default.outputs.other: expected the name 'sentence_embedding' for the kind 'sentence'",
            ),
            (
                lambda raw: raw["routes"]["default"]["variants"][0].update(file="tokenizer.json"),
                "variants[0].file: expected a file that ends with .onnx, got 'tokenizer.json'",
            ),
            (
                lambda raw: raw["routes"]["default"]["variants"][0]["proof"].update(worst_text=42),
                "variants[0].proof.worst_text: expected 0 to 41, got 42",
            ),
            (
                lambda raw: raw["routes"]["default"]["variants"][0]["proof"].update(min_cosine=2.0),
                "variants[0].proof.min_cosine: expected -1.0001 to 1.0001, got 2.0",
            ),
            (
                lambda raw: raw["routes"]["default"]["modules"][1]["settings"].update(pooling_mode=5),
                "modules[1].settings.pooling_mode: expected a list of strings, got '5'",
            ),
            (
                lambda raw: raw["files"]["tokenizer.json"].update(sha256="x"),
                "files.tokenizer.json.sha256: expected 64 hex digits, got 'x'",
            ),
            (
                lambda raw: raw["files"]["tokenizer.json"].update(size=-1),
                "files.tokenizer.json.size: expected 0 to 9223372036854775807, got -1",
            ),
            (
                lambda raw: raw["prompts"].update(query="a \ud800"),
                r"embedrt.json.prompts.query: expected valid Unicode, got a lone surrogate in 'a \ud800'",
            ),
            (
                lambda raw: raw["prompts"].update({"\udfff": "a"}),
                r"embedrt.json.prompts: expected valid Unicode, got a lone surrogate in '\udfff'",
            ),
            (
                lambda raw: raw["files"].update({"\ud800": raw["files"]["tokenizer.json"]}),
                r"embedrt.json.files: expected valid Unicode, got a lone surrogate in '\ud800'",
            ),
            (
                lambda raw: raw["routes"]["default"].update(tokenizer="\ud800"),
                r"embedrt.json.routes.default.tokenizer: expected valid Unicode, got a lone surrogate in '\ud800'",
            ),
            (lambda raw: raw["files"].pop("tokenizer.json"), "files: tokenizer.json missing from the list"),
            (lambda raw: raw["files"].pop(DATA), f"files: {DATA} missing from the list"),
            (lambda raw: raw["files"].pop("parity/vectors.npy"), "files: parity/vectors.npy missing from the list"),
            (
                lambda raw: raw["routes"]["default"]["variants"][1].update(file="other.onnx"),
                "files: other.onnx missing from the list",
            ),
            (lambda raw: raw["files"].pop("onnx/model_cpu.onnx"), "files: onnx/model_cpu.onnx missing from the list"),
            (
                lambda raw: raw["routes"]["default"]["variants"][0].pop("data"),
                "embedrt.json.routes.default.variants[0]: missing field 'data'",
            ),
        ],
    )
    def test_a_wrong_field_is_named(self, bundle: Path, edit: Callable[[Json], Any], message: str) -> None:
        change(bundle, edit)
        error = error_of(bundle)
        assert error.startswith(f"{bundle}: ")
        assert message in error
        assert error.encode()

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (
                lambda raw: raw["routes"]["default"]["tokenization"].update(embedding_rows=100),
                "embedding_rows: expected more than 132, the largest id of tokenizer.json, got 100; export the model",
            ),
            (
                lambda raw: raw["routes"]["default"].update(max_seq_length=2),
                "max_seq_length: expected at least 3, room for text beside the special tokens of tokenizer.json, got 2",
            ),
            (
                lambda raw: raw["routes"]["default"].update(parity_max_seq_length=1),
                "parity_max_seq_length: expected at least 3, room for text beside the special tokens of",
            ),
        ],
    )
    def test_what_does_not_fit_the_tokenizer(self, bundle: Path, edit: Callable[[Json], Any], message: str) -> None:
        change(bundle, edit)
        with pytest.raises(BundleError) as caught:
            Embedder(bundle)
        assert str(caught.value).startswith(f"{bundle}: {MANIFEST}: {message}")

    def test_a_special_token_beyond_the_table(self, bundle: Path) -> None:
        path = bundle / "tokenizer.json"
        definition = json.loads(path.read_bytes())
        definition["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [2**20]
        path.write_text(json.dumps(definition))
        rehash(bundle)
        with pytest.raises(BundleError, match=r"embedding_rows: expected more than 1048576, the largest id of token"):
            Embedder(bundle)

    def test_a_tokenizer_that_fails_on_every_text(self, bundle: Path) -> None:
        """The library panics, which is no Exception."""
        path = bundle / "tokenizer.json"
        definition = json.loads(path.read_bytes())
        definition["post_processor"]["single"][0]["SpecialToken"]["id"] = "[NONE]"
        path.write_text(json.dumps(definition))
        rehash(bundle)
        with pytest.raises(BundleError, match=r"tokenizer\.json: the tokenizer fails on an empty text: no entry found"):
            Embedder(bundle)

    def test_an_id_beyond_the_table_that_few_texts_have(self, bundle: Path) -> None:
        """The vocabulary has no more tokens than the table has rows, but one of them has a large id."""
        path = bundle / "tokenizer.json"
        definition = json.loads(path.read_bytes())
        definition["model"]["vocab"]["cat"] = 5000
        path.write_text(json.dumps(definition))
        rehash(bundle)
        model = Embedder(bundle)
        assert model.encode("the dog").shape == (32,)
        with pytest.raises(BundleError, match="token id 5000: expected less than embedding_rows, 133"):
            model.encode("the cat")

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (
                lambda route: route["tokenization"].update(token_type_ids=True),
                (
                    "expected the inputs input_ids, attention_mask, token_type_ids, as in the manifest, got "
                    "attention_mask, input_ids; export the model again"
                ),
            ),
            (
                lambda route: route["tokenization"].update(pooling_mask=True),
                (
                    "expected the inputs input_ids, attention_mask, pooling_mask, as in the manifest, got "
                    "attention_mask, input_ids; export the model again"
                ),
            ),
            (
                lambda route: route["outputs"]["sentence_embedding"].update(width=16),
                "expected sentence_embedding of width 16, as in the manifest, got 32; export the model again",
            ),
            (
                lambda route: route["outputs"]["token_embeddings"].update(width=64),
                "expected token_embeddings of width 64, as in the manifest, got 32; export the model again",
            ),
            (
                lambda route: route["outputs"].update(logits={"kind": "scores", "width": 1, "normalized": False}),
                (
                    "expected the output logits, as in the manifest, got last_hidden_state, token_embeddings, "
                    "sentence_embedding; export the model again"
                ),
            ),
        ],
    )
    def test_what_does_not_fit_the_graph(self, bundle: Path, edit: Callable[[Json], Any], message: str) -> None:
        """Found when the first session is made, before it runs."""
        change(bundle, lambda raw: edit(raw["routes"]["default"]))
        for texts in ("a", ["a"] * 300):
            with pytest.raises(BundleError) as caught:
                Embedder(bundle).encode(texts)
            assert str(caught.value) == f"{bundle / 'onnx' / 'model_cpu.onnx'}: {message}"

    def test_a_graph_with_an_input_that_the_manifest_has_not(self, bundle: Path) -> None:
        def add(graph: onnx.GraphProto) -> None:
            graph.input.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.INT64, ["batch"]))

        edit_graph(bundle, add)
        with pytest.raises(BundleError, match="expected the inputs input_ids, attention_mask, as in the man"):
            Embedder(bundle).encode("a")

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda route: route.update(parity_texts="config.json"), r"config\.json: expected a list, got dict"),
            (lambda route: route.update(parity_vectors="config.json"), r"config\.json: not a NumPy file"),
            (lambda route: route.update(parity_texts="modules.json"), r"modules\.json\[0\]: expected a string"),
        ],
    )
    def test_a_proof_that_is_something_else(self, bundle: Path, edit: Callable[[Json], Any], message: str) -> None:
        change(bundle, lambda raw: edit(raw["routes"]["default"]))
        with pytest.raises(BundleError, match=message):
            embedrt.verify(bundle)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a": NaN}', b'{"a": 1, "a": 1}'])
    def test_what_is_no_manifest(self, bundle: Path, content: bytes) -> None:
        (bundle / MANIFEST).write_bytes(content)
        assert error_of(bundle).startswith(f"{bundle}: {MANIFEST}")

    @posix_only
    def test_a_link_instead_of_the_manifest(self, bundle: Path) -> None:
        (bundle / MANIFEST).rename(bundle / "elsewhere.json")
        (bundle / MANIFEST).symlink_to("elsewhere.json")
        assert f"{MANIFEST}: expected a plain file, got a symlink" in error_of(bundle)

    @posix_only
    def test_a_fifo_instead_of_the_manifest_does_not_hang(self, bundle: Path) -> None:
        (bundle / MANIFEST).unlink()
        os.mkfifo(bundle / MANIFEST)
        with at_most(20):
            assert f"{MANIFEST}: not a plain file" in error_of(bundle)


class TestPaths:
    @pytest.mark.parametrize(
        "name",
        [
            "../x",
            "..",
            ".",
            "",
            "/etc/passwd",
            "a/../../x",
            "a/../b",
            "a//b",
            "./a",
            "a/",
            "C:\\x",
            "C:x",
            "a\\b",
            "a\0b",
            MANIFEST,
        ],
    )
    def test_a_path_that_is_not_plain_is_refused(self, bundle: Path, name: str) -> None:
        change(bundle, lambda raw: raw["files"].update({name: raw["files"]["tokenizer.json"]}))
        error = error_of(bundle)
        assert error.isprintable()
        assert f"files: {name!r} is not a plain path inside the bundle" in error

    def test_a_path_outside_is_refused_before_the_file_is_looked_at(self, bundle: Path) -> None:
        """Even if what is there has the right size and hash."""
        shutil.copyfile(bundle / "tokenizer.json", bundle.parent / "outside.json")
        change(bundle, lambda raw: raw["files"].update({"../outside.json": raw["files"]["tokenizer.json"]}))
        assert "'../outside.json' is not a plain path" in error_of(bundle)

    def test_spaces_and_other_scripts(self, tiny_bundle: Path, tmp_path: Path, tiny: Embedder) -> None:
        folder = copy_bundle(tiny_bundle, tmp_path / "two words" / "ключ 千里 é")
        np.testing.assert_array_equal(Embedder(folder).encode("one text"), tiny.encode("one text"))

    def test_a_relative_path_holds_after_chdir(
        self, bundle: Path, tiny: Embedder, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        monkeypatch.chdir(bundle.parent)
        embedder = Embedder("bundle")
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
        np.testing.assert_array_equal(embedder.encode("one text"), tiny.encode("one text"))


def with_width(route: Json, width: int) -> Json:
    """A route whose sentence embeddings have another width."""
    return {**route, "outputs": {"sentence_embedding": {**route["outputs"]["sentence_embedding"], "width": width}}}


def with_dtype(route: Json, dtype: str) -> Json:
    """A route whose variants have another dtype."""
    return {**route, "variants": [{**variant, "dtype": dtype} for variant in route["variants"]]}


def flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


class TestFiles:
    @pytest.mark.parametrize("name", [DATA, GRAPH, "tokenizer.json", "config.json", "parity/vectors.npy"])
    def test_one_flipped_bit(self, bundle: Path, name: str) -> None:
        path = bundle / name
        path.write_bytes(flip(path.read_bytes(), path.stat().st_size // 2))
        error = error_of(bundle)
        assert error.startswith(f"{path}: expected SHA-256 ")
        assert error.endswith("get the bundle again")

    def test_zeros_of_the_right_length(self, bundle: Path) -> None:
        (bundle / DATA).write_bytes(bytes((bundle / DATA).stat().st_size))
        assert f"{bundle / DATA}: expected SHA-256 " in error_of(bundle)

    @pytest.mark.parametrize("name", [DATA, GRAPH, "tokenizer.json"])
    @pytest.mark.parametrize("part", ["none", "one byte", "half", "all but one", "one too many"])
    def test_wrong_size(self, bundle: Path, name: str, part: str) -> None:
        path = bundle / name
        size = path.stat().st_size
        left = {"none": 0, "one byte": 1, "half": size // 2, "all but one": size - 1, "one too many": size + 1}[part]
        path.write_bytes((path.read_bytes() + b"\0")[:left])
        assert error_of(bundle) == f"{path}: expected {size} bytes, got {left}; get the bundle again"

    @pytest.mark.parametrize("name", [DATA, "tokenizer.json", "1_Pooling/config.json", "parity/texts.json"])
    def test_missing(self, bundle: Path, name: str) -> None:
        (bundle / name).unlink()
        assert error_of(bundle) == f"{bundle / name}: listed in the manifest, but missing; get the bundle again"

    def test_a_file_where_a_folder_was(self, bundle: Path) -> None:
        shutil.rmtree(bundle / "onnx")
        (bundle / "onnx").write_text("")
        assert f"{bundle / GRAPH}: listed in the manifest, but missing" in error_of(bundle)

    def test_a_folder_instead_of_the_file(self, bundle: Path) -> None:
        (bundle / DATA).unlink()
        (bundle / DATA).mkdir()
        assert error_of(bundle) == f"{bundle / DATA}: not a plain file"

    def test_a_git_lfs_pointer(self, bundle: Path) -> None:
        (bundle / DATA).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90752\n")
        error = error_of(bundle)
        assert f"{bundle / DATA}: a Git LFS pointer" in error
        assert "git lfs pull" in error

    @posix_only
    def test_a_link_to_the_right_content(self, bundle: Path, tmp_path: Path) -> None:
        outside = (bundle / DATA).rename(tmp_path / "weights")
        (bundle / DATA).symlink_to(outside)
        error = error_of(bundle)
        assert error.startswith(f"{bundle / DATA}: expected a plain file, got a symlink; ")
        assert "copy the bundle with links resolved" in error

    @posix_only
    def test_a_dangling_link(self, bundle: Path) -> None:
        (bundle / DATA).unlink()
        (bundle / DATA).symlink_to("nowhere")
        assert f"{bundle / DATA}: expected a plain file, got a symlink" in error_of(bundle)

    @posix_only
    def test_a_linked_folder_inside(self, bundle: Path, tmp_path: Path) -> None:
        outside = (bundle / "onnx").rename(tmp_path / "graphs")
        (bundle / "onnx").symlink_to(outside)
        assert f"{bundle / GRAPH}: expected a plain file, got a symlink" in error_of(bundle)

    @posix_only
    def test_the_bundle_itself_may_be_behind_a_link(self, bundle: Path, tmp_path: Path, tiny: Embedder) -> None:
        (tmp_path / "current").symlink_to(bundle)
        np.testing.assert_array_equal(Embedder(tmp_path / "current").encode("one text"), tiny.encode("one text"))

    @posix_only
    def test_a_fifo_does_not_hang(self, bundle: Path) -> None:
        (bundle / DATA).unlink()
        os.mkfifo(bundle / DATA)
        with at_most(20):
            assert error_of(bundle) == f"{bundle / DATA}: not a plain file"

    def test_files_beside_the_listed_ones_do_no_harm(self, bundle: Path, tiny: Embedder) -> None:
        (bundle / "README.md").write_text("notes")
        np.testing.assert_array_equal(Embedder(bundle).encode("one text"), tiny.encode("one text"))

    def test_a_loaded_bundle_outlives_its_replacement(self, bundle: Path, tiny: Embedder) -> None:
        embedder = Embedder(bundle)
        embedder.encode("one text")
        other = bundle / "other"
        other.write_bytes(bytes((bundle / DATA).stat().st_size))
        other.replace(bundle / DATA)
        np.testing.assert_array_equal(embedder.encode("one text"), tiny.encode("one text"))


class TestConsistentlyHashed:
    """Bundles whose manifest fits, so that only the engine or the tokenizer can refuse."""

    @pytest.mark.parametrize("location", ["../../outside.data", "absolute", "../onnx/../../outside.data"])
    def test_weights_outside_of_the_bundle_are_never_read(self, bundle: Path, location: str) -> None:
        outside = (bundle / DATA).rename(bundle.parent / "outside.data")
        (bundle / DATA).write_bytes(b"")
        point_weights_to(bundle, str(outside) if location == "absolute" else location)
        with pytest.raises(DeviceError, match=r"ONNX Runtime cannot load .*model_cpu\.onnx"):
            Embedder(bundle).encode("one text")

    @posix_only
    def test_weights_behind_a_link_that_is_not_listed_are_never_read(self, bundle: Path) -> None:
        outside = (bundle / DATA).rename(bundle.parent / "outside.data")
        (bundle / DATA).write_bytes(b"")
        (bundle / "onnx" / "link.data").symlink_to(outside)
        point_weights_to(bundle, "link.data")
        with pytest.raises(DeviceError, match=r"ONNX Runtime cannot load .*model_cpu\.onnx"):
            Embedder(bundle).encode("one text")

    @pytest.mark.parametrize(("key", "value"), [("offset", 2**40), ("length", 2**62), ("offset", -64)])
    def test_weights_beyond_the_file(self, bundle: Path, key: str, value: int) -> None:
        set_external(bundle, key, str(value))
        with pytest.raises(DeviceError, match=r"ONNX Runtime cannot load"):
            Embedder(bundle).encode("one text")

    def test_a_graph_that_is_no_graph(self, bundle: Path) -> None:
        (bundle / "onnx" / "model_cpu.onnx").write_bytes(b"nonsense")
        rehash(bundle)
        with pytest.raises(DeviceError, match=r"ONNX Runtime cannot load .*model_cpu\.onnx on 'cpu'"):
            Embedder(bundle).encode("one text")

    @pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"version": "1.0", "model": {"type": "Evil"}}'])
    def test_a_tokenizer_that_is_no_tokenizer(self, bundle: Path, content: bytes) -> None:
        (bundle / "tokenizer.json").write_bytes(content)
        rehash(bundle)
        with pytest.raises(BundleError, match=r"tokenizer\.json: tokenizers \S+ cannot read it: "):
            Embedder(bundle)


def set_external(bundle: Path, key: str, value: str) -> None:
    """Changes one key of every tensor's external data, with the manifest made to fit."""

    def edit(graph: onnx.GraphProto) -> None:
        external = [tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
        assert external
        for tensor in external:
            kept = {entry.key: entry.value for entry in tensor.external_data} | {key: value}
            del tensor.external_data[:]
            for name, content in kept.items():
                tensor.external_data.add(key=name, value=content)

    edit_graph(bundle, edit)


def point_weights_to(bundle: Path, location: str) -> None:
    set_external(bundle, "location", location)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON document something can be changed."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


# Lone surrogates too, which JSON can express.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=6)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(ANY_TEXT, inner, max_size=2),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def fuzzed(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_bundle(tiny_bundle, tmp_path_factory.mktemp("fuzz") / "bundle")


@given(st.data())
def test_a_fuzzed_manifest_raises_bundle_errors_only(fuzzed: Path, tiny_bundle: Path, data: st.DataObject) -> None:
    raw: Any = read_raw(tiny_bundle)
    path = data.draw(st.sampled_from(list(places(raw))))
    action = data.draw(st.sampled_from(["replace", "delete", "add"]))
    junk = data.draw(JUNK)
    if not path:
        raw = junk
    else:
        parent = raw
        for key in path[:-1]:
            parent = parent[key]
        if action == "replace":
            parent[path[-1]] = junk
        elif action == "delete":
            del parent[path[-1]]
        elif isinstance(parent, dict):
            parent[data.draw(ANY_TEXT)] = junk
        else:
            parent.append(junk)
    write_raw(fuzzed, raw)
    try:
        manifest = read_bundle(fuzzed)
    except BundleError as error:
        refusal = str(error)
    else:
        assert set(manifest.files) <= set(read_raw(tiny_bundle)["files"])
        return
    assert refusal.startswith(str(fuzzed))


@given(st.data())
def test_fuzzed_bytes_of_the_manifest_raise_bundle_errors_only(
    fuzzed: Path, tiny_bundle: Path, data: st.DataObject
) -> None:
    content = bytearray((tiny_bundle / MANIFEST).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    (fuzzed / MANIFEST).write_bytes(content)
    with suppress(BundleError):
        assert read_bundle(fuzzed).dim > 0
