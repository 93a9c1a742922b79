"""Weights: every way that repos store them, and every damage by file and tensor."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from embedrt import Embedder, ExportError, UnsupportedModelError
from embedrt.bundle.manifest import read_bundle
from embedrt_export import export
from embedrt_export.source.weights import Weights
from tests.kit.edits import edit_json, edit_weights, shard
from tests.kit.models import Tensors, make_model, write_json

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
QUERY = "encoder.layer.0.attention.self.query.weight"
TEXTS = ["the cat", "a river bank with three boats", ""]
STORED_AS: dict[str, Any] = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, read as the format says and not by the library under test."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    content: dict[str, Any] = json.loads(raw[8 : 8 + length])
    return content


def digest(folder: Path) -> str:
    """The digest over all tensors."""
    with Weights(folder, ("bert.",)) as weights:
        for name, values in load_all(folder).items():
            weights(name.removeprefix("bert."), *values.shape)
        return weights.digest()


def load_all(folder: Path) -> Tensors:
    return {name: values for path in sorted(folder.glob("*.safetensors")) for name, values in load_file(path).items()}


def fingerprint(model: Path, target: Path) -> str:
    return read_bundle(export(model, target)).fingerprint


@pytest.mark.parametrize("dtype", STORED_AS)
def test_stored_precisions(model: Path, tmp_path: Path, dtype: str) -> None:
    """Stored narrow or wide, they are computed with as the float32 that they stand for."""
    kind = STORED_AS[dtype]
    edit_weights(model, lambda tensors: {name: values.astype(kind) for name, values in tensors.items()})
    assert {entry["dtype"] for entry in header(model / FILE).values()} == {dtype}
    original = load_file(model / FILE)

    with Weights(model, ("bert.",)) as weights:
        for name, values in original.items():
            read = weights(name, *values.shape)
            assert read.dtype == np.float32
            np.testing.assert_array_equal(read, values.astype(np.float64).astype(np.float32))
    bundle = export(model, tmp_path / "bundle")

    edit_weights(model, lambda tensors: {name: values.astype(np.float32) for name, values in tensors.items()})
    wide = export(model, tmp_path / "wide")
    assert read_bundle(bundle).fingerprint == read_bundle(wide).fingerprint
    np.testing.assert_array_equal(Embedder(bundle).encode(TEXTS), Embedder(wide).encode(TEXTS))


def test_bfloat16_bit_by_bit(model: Path) -> None:
    """The upper half of a float32, written by hand."""
    values = np.array([[1.0, -2.5, 3.140625, 0.0, -0.0, 2**-130]], np.float32)
    words = (values.view(np.uint32) >> 16).astype("<u2")
    head = {"x": {"dtype": "BF16", "shape": [1, 6], "data_offsets": [0, 12]}}
    raw = json.dumps(head).encode()
    raw += b" " * (-len(raw) % 8)
    (model / FILE).write_bytes(struct.pack("<Q", len(raw)) + raw + words.tobytes())
    with Weights(model, ()) as weights:
        np.testing.assert_array_equal(weights("x", 1, 6).view(np.uint32), values.view(np.uint32))


def test_shards_prefix_legacy_names_and_order_change_nothing(tmp_path: Path) -> None:
    plain = make_model(tmp_path / "plain")
    variants = {
        name: make_model(tmp_path / name) for name in ("shards", "reversed", "prefix", "legacy", "heads", "all")
    }
    legacy = {".LayerNorm.weight": ".LayerNorm.gamma", ".LayerNorm.bias": ".LayerNorm.beta"}

    def old_names(tensors: Tensors) -> Tensors:
        renamed = {}
        for name, values in tensors.items():
            suffix = next((new for new in legacy if name.endswith(new)), "")
            renamed[name.removesuffix(suffix) + legacy.get(suffix, "")] = values
        return renamed

    def with_prefix(tensors: Tensors) -> Tensors:
        return {f"bert.{name}": values for name, values in reversed(tensors.items())}

    def with_heads(tensors: Tensors) -> None:
        tensors["pooler.dense.weight"] = np.ones((32, 32), np.float32)
        tensors["cls.predictions.bias"] = np.full(7, np.nan, np.float32)
        tensors["embeddings.position_ids"] = np.arange(64)[None]

    shard(variants["shards"])
    shard(variants["reversed"], 2, reverse=True)
    edit_weights(variants["prefix"], with_prefix)
    edit_weights(variants["legacy"], old_names)
    edit_weights(variants["heads"], with_heads)
    edit_weights(variants["all"], with_heads)
    edit_weights(variants["all"], lambda tensors: with_prefix(old_names(tensors)))
    shard(variants["all"], 4)
    assert len(list(variants["shards"].glob("*.safetensors"))) == 3

    expected = export(plain, tmp_path / "bundle")
    for name, folder in variants.items():
        bundle = export(folder, tmp_path / f"bundle-{name}")
        assert read_bundle(bundle).fingerprint == read_bundle(expected).fingerprint, name
        for file in ("onnx/model.onnx", "onnx/model.onnx_data", "parity/vectors.npy"):
            assert (bundle / file).read_bytes() == (expected / file).read_bytes(), (name, file)


def test_mpnet_prefix(tmp_path: Path) -> None:
    plain, prefixed = make_model(tmp_path / "plain", "mpnet"), make_model(tmp_path / "prefixed", "mpnet")
    edit_weights(prefixed, lambda tensors: {f"mpnet.{name}": values for name, values in tensors.items()})
    assert fingerprint(plain, tmp_path / "a") == fingerprint(prefixed, tmp_path / "b")


def test_digest_is_of_every_value_name_and_shape(model: Path, tmp_path: Path) -> None:
    before = digest(model)
    assert digest(make_model(tmp_path / "again")) == before
    assert digest(make_model(tmp_path / "seed", seed=1)) != before
    seen = {before}

    def nudge(tensors: Tensors) -> None:
        tensors[QUERY][31, 31] = np.nextafter(tensors[QUERY][31, 31], np.float32(9))

    def swap(tensors: Tensors) -> None:
        key = QUERY.replace("query", "key")
        tensors[QUERY], tensors[key] = tensors[key], tensors[QUERY]

    def reshape(tensors: Tensors) -> None:
        tensors[QUERY] = tensors[QUERY].reshape(16, 64)

    changes: list[Callable[[Tensors], None]] = [nudge, swap, reshape]
    for change in changes:
        edit_weights(model, change)
        seen.add(digest(model))
    assert len(seen) == 4


def without(name: str) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        edit_weights(model, lambda tensors: {key: value for key, value in tensors.items() if key != name})

    return damage


def with_tensor(name: str, values: Any) -> Callable[[Path], None]:
    return lambda model: edit_weights(model, lambda tensors: {**tensors, name: values})


def with_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda model: (model / FILE).write_bytes(change((model / FILE).read_bytes()))


def drop_shard(model: Path) -> None:
    shard(model)
    (model / "model-00002-of-00003.safetensors").unlink()


def index_with(place: Any) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        shard(model)
        index = json.loads((model / INDEX).read_bytes())
        index["weight_map"][QUERY] = place
        write_json(model / INDEX, index)

    return damage


def index_of(content: bytes) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        shard(model)
        (model / INDEX).write_bytes(content)

    return damage


def instead(content: bytes, name: str = FILE) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        (model / FILE).unlink()
        (model / name).write_bytes(content)

    return damage


NAN, INFINITE = np.zeros((32, 32), np.float32), np.zeros((32, 32), np.float32)
NAN[3, 4], INFINITE[5, 6] = np.nan, -np.inf
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 97848\n"

HUGE_SIDE = json.dumps({"a": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}).encode()
DAMAGED: dict[str, tuple[Callable[[Path], Any], type[ExportError], str]] = {
    "missing tensor": (without(QUERY), ExportError, rf"^weights: tensor '{QUERY}' is missing, but config"),
    "wrong shape": (
        with_tensor(QUERY, np.zeros((32, 31), np.float32)),
        ExportError,
        rf"^model\.safetensors: tensor '{QUERY}' has shape \(32, 31\), config.json requires \(32, 32\)",
    ),
    "fewer words than the config says": (
        lambda model: edit_json(model / "config.json", vocab_size=134),
        ExportError,
        r"'embeddings\.word_embeddings\.weight' has shape \(133, 32\), config.json requires \(134, 32\)",
    ),
    "fewer layers than stored": (
        lambda model: edit_json(model / "config.json", num_hidden_layers=1),
        ExportError,
        r"^weights: config.json describes a smaller model, which does not use 'encoder\.layer\.1\..*' and 11 more$",
    ),
    "one stray tensor": (
        with_tensor("embeddings.extra.weight", np.ones(2, np.float32)),
        ExportError,
        r"which does not use 'embeddings\.extra\.weight'$",
    ),
    "more layers than stored": (
        lambda model: edit_json(model / "config.json", num_hidden_layers=3),
        ExportError,
        r"tensor 'encoder\.layer\.2\..*' is missing",
    ),
    "NaN": (with_tensor(QUERY, NAN), ExportError, rf"^model\.safetensors: tensor '{QUERY}' has NaN or infinity"),
    "infinity": (with_tensor(QUERY, INFINITE), ExportError, f"'{QUERY}' has NaN or infinity"),
    "float64 beyond float32": (
        with_tensor(QUERY, np.full((32, 32), 1e300)),
        ExportError,
        f"'{QUERY}' has NaN or infinity",
    ),
    "int8": (
        with_tensor(QUERY, np.zeros((32, 32), np.int8)),
        UnsupportedModelError,
        f"tensor '{QUERY}' is stored as I8; expected BF16, F16, F32, F64 .quantized weights cannot be exported",
    ),
    "float8": (
        with_tensor(QUERY, np.zeros((32, 32), ml_dtypes.float8_e4m3fn)),
        UnsupportedModelError,
        f"tensor '{QUERY}' is stored as F8_E4M3",
    ),
    "truncated": (with_bytes(lambda raw: raw[:-1]), ExportError, r"^model\.safetensors: not a complete safe"),
    "half": (
        with_bytes(lambda raw: raw[: len(raw) // 2]),
        ExportError,
        r"^model\.safetensors: not a complete .*again$",
    ),
    "seven bytes": (with_bytes(lambda raw: raw[:7]), ExportError, r"^model\.safetensors: not a complete"),
    "empty": (with_bytes(lambda _: b""), ExportError, r"^model\.safetensors: not a complete"),
    "longer": (with_bytes(lambda raw: raw + b"\0"), ExportError, r"^model\.safetensors: not a complete"),
    "zeros": (with_bytes(lambda raw: b"\0" * len(raw)), ExportError, r"^model\.safetensors: not a complete"),
    "pickle": (with_bytes(lambda _: b"\x80\x04\x95" + b"x" * 999), ExportError, r"^model\.safetensors: not a complete"),
    "huge header": (
        with_bytes(lambda raw: struct.pack("<Q", 2**62) + raw[8:]),
        ExportError,
        r"^model\.safetensors: not a complete",
    ),
    "empty tensor with a huge side": (
        with_bytes(lambda _: struct.pack("<Q", len(HUGE_SIDE)) + HUGE_SIDE),
        ExportError,
        r"^model\.safetensors: not a complete safetensors file: tensor 'a' has shape \(0, 4611686018427387904\)",
    ),
    "LFS pointer": (with_bytes(lambda _: LFS), ExportError, r"it is a Git LFS pointer; run `git lfs pull`$"),
    "no weights": (
        lambda model: (model / FILE).unlink(),
        ExportError,
        r"^model: no model\.safetensors and no model\.safetensors\.index\.json; save the model as safetensors",
    ),
    "pickled weights": (
        instead(b"\x80\x04.", "pytorch_model.bin"),
        ExportError,
        r"^model: no model\.safetensors and .*; pytorch_model\.bin cannot be read; save the model as",
    ),
    "shard missing": (drop_shard, ExportError, r"^model: shard model-00002-of-00003\.safetensors is listed in .* but"),
    "shard outside": (index_with("../x"), ExportError, rf"^{INDEX}: '\.\./x' is not the name of a safetensors file"),
    "shard absolute": (index_with("/etc/passwd"), ExportError, "'/etc/passwd' is not the name of a safetensors file"),
    "shard a parent": (index_with(".."), ExportError, "'..' is not the name of a safetensors file"),
    "shard not a name": (index_with(7), ExportError, f"^{INDEX}: "),
    "shard a list": (index_with(["a"]), ExportError, f"^{INDEX}: "),
    "index not JSON": (index_of(b"{"), ExportError, f"^{INDEX}: not an index of shards"),
    "index a list": (index_of(b"[]"), ExportError, f"^{INDEX}: not an index of shards"),
    "index without map": (index_of(b"{}"), ExportError, f"^{INDEX}: not an index of shards"),
    "index of nothing": (index_of(b'{"weight_map": {}}'), ExportError, r"tensor 'embeddings\..*' is missing"),
    "index map a list": (index_of(b'{"weight_map": [1]}'), ExportError, f"^{INDEX}: not an index of shards"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named_and_nothing_is_left(model: Path, tmp_path: Path, name: str) -> None:
    damage, kind, message = DAMAGED[name]
    damage(model)
    parent = tmp_path / "parent"
    with pytest.raises(kind, match=message):
        export(model, parent / "bundle")
    assert not parent.exists() or list(parent.iterdir()) == []


def test_a_damaged_shard_is_named(model: Path, tmp_path: Path) -> None:
    shard(model)
    path = model / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ExportError, match=r"^model-00003-of-00003\.safetensors: not a complete safe"):
        export(model, tmp_path / "bundle")


def test_a_tensor_of_a_shard_is_named_with_its_file_and_prefix(model: Path, tmp_path: Path) -> None:
    edit_weights(model, lambda tensors: {f"bert.{name}": values for name, values in tensors.items()})
    shard(model, 2)
    index = json.loads((model / INDEX).read_bytes())["weight_map"]
    path = model / index[f"bert.{QUERY}"]
    save_file({**load_file(path), f"bert.{QUERY}": NAN}, path)
    with pytest.raises(ExportError, match=rf"^{path.name}: tensor 'bert\.{QUERY}' has NaN or infinity"):
        export(model, tmp_path / "bundle")


def test_reading_twice_gives_the_same_digest(model: Path) -> None:
    """The graph reads some tensors in other shapes of code, never in other numbers of times."""
    with Weights(model, ("bert.",)) as weights:
        assert QUERY in weights
        assert f"bert.{QUERY}" not in weights
        weights(QUERY, 32, 32)
        once = weights.digest()
        weights(QUERY, 32, 32)
        assert weights.digest() == once
        assert QUERY not in weights.unused(("encoder.",))
        assert QUERY.replace("query", "key") in weights.unused(("encoder.",))


@pytest.mark.parametrize("twin", ["bert.embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight"])
def test_two_tensors_of_one_name(model: Path, tmp_path: Path, twin: str) -> None:
    """Which of them the model was trained with cannot be known."""
    edit_weights(model, lambda tensors: {f"bert.{name}": values for name, values in tensors.items()})
    edit_weights(model, lambda tensors: {**tensors, twin: np.ones(32, np.float32)})
    with pytest.raises(ExportError, match=r"^weights: two tensors for 'embeddings\.LayerNorm\.weight': .*'bert\..*'"):
        export(model, tmp_path / "bundle")


def test_one_tensor_in_two_shards(model: Path, tmp_path: Path) -> None:
    shard(model, 2)
    for path in model.glob("*.safetensors"):
        save_file({**load_file(path), QUERY: np.ones((32, 32), np.float32)}, path)
    with pytest.raises(ExportError, match=rf"^weights: two tensors for '{QUERY}': .*-00001-of-.*-00002-of-"):
        export(model, tmp_path / "bundle")
