"""Readers of untrusted files, each with valid files to start from, as users reach them."""

import json
import logging
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from embedrt import Embedder, load_embeddings, save_embeddings
from embedrt.bundle.check import check_files, user_cache
from embedrt.bundle.manifest import MANIFEST, TUNED, Source, read_bundle, read_manifest
from embedrt.bundle.staging import staging
from embedrt.tune import result
from embedrt.verify.bundle import verify as verify_bundle
from embedrt.verify.parity import parity_items_of, parity_vectors_of
from embedrt_export import export
from embedrt_export.families import FAMILIES, choose_task, family_name
from embedrt_export.graph.data_file import DataFile
from embedrt_export.options import ExportOptions
from embedrt_export.routes.decide import decide
from embedrt_export.routes.multi_vector import settings_of
from embedrt_export.routes.recognize import recognize
from embedrt_export.routes.repo import read_repo, transformers
from embedrt_export.routes.route import build_route
from embedrt_export.source.files import check_files as check_model_files
from embedrt_export.source.locate import Located
from embedrt_export.source.unsupported import check_supported
from embedrt_export.source.weights import Weights, open_tensors
from embedrt_export.tokenizer import build_tokenizer
from tests.endurance.mutate import mutate
from tests.kit import late_models
from tests.kit.bundles import copy_bundle, read_raw, rehash, write_raw
from tests.kit.embedding_files import Model, vectors_of
from tests.kit.late_models import LATE_REFERENCE
from tests.kit.models import make_model

TEXTS = ["the cat", "", "a river 漢字 🙂 " * 9]


@dataclass(frozen=True)
class Target:
    """One reader and the files that it reads.

    Attributes:
        name: For the command line.
        files: Files to damage, by path, each with one or more valid contents.
        read: Reads the file of this path as users do; may raise EmbedrtError.
        share: Inputs of every thousand; slow readers get fewer.
        damage: Makes an input of a valid one.
    """

    name: str
    files: dict[Path, tuple[bytes, ...]]
    read: Callable[[Path], Any]
    share: int
    damage: Callable[[bytes, tuple[bytes, ...], Random], bytes] = mutate

    def draw(self, random: Random) -> tuple[Path, bytes]:
        """A file and its damaged content."""
        path = random.choice(list(self.files))
        seeds = self.files[path]
        return path, self.damage(random.choice(seeds), seeds, random)

    def try_out(self, path: Path, content: bytes) -> None:
        """Read the file with this content, and put the valid one back."""
        path.write_bytes(content)
        try:
            self.read(path)
        finally:
            path.write_bytes(self.files[path][0])


def damage_header(raw: bytes, others: tuple[bytes, ...], random: Random) -> bytes:
    """A safetensors file with another header, mostly with the length that fits it."""
    if random.random() < 0.2:
        return mutate(raw, others, random)
    end = 8 + int.from_bytes(raw[:8], "little")
    header = mutate(raw[8:end], (raw[8:end],), random)
    length = len(header) if random.random() < 0.9 else random.choice((0, 7, len(raw), 2**31, 2**60, 2**64 - 1))
    return length.to_bytes(8, "little") + header + raw[end:]


def make_targets(folder: Path) -> list[Target]:
    """All targets, with their files in an empty folder.

    The caller's `EMBEDRT_HOME` is where one of them writes.
    """
    logging.getLogger("embedrt").setLevel(logging.ERROR)
    model = make_model(folder / "model", prompts={"query": "q: "})
    bundle = export(model, folder / "bundle")
    targets = [*_bundle_targets(bundle, folder), *_model_targets(model, folder), *_vector_targets(folder)]
    for target in targets:  # a reader that refuses valid files tests nothing
        for path, contents in target.files.items():
            for content in contents:
                target.try_out(path, content)
    return targets


def _bundle_targets(bundle: Path, folder: Path) -> list[Target]:
    manifest = read_bundle(bundle, "always")
    route = manifest.routes["default"]
    raw = (bundle / MANIFEST).read_bytes()
    slim = json.loads(raw)
    slim.update(vector_ranges=[[-1.0] * 32, [1.0] * 32], default_prompt_name="query", truncate_dim=16)
    manifests = (raw, json.dumps(slim).encode())

    def load(path: Path) -> None:
        with Embedder(path.parent, device="cpu", threads=1, verify="never") as embedder:
            task = "" if "" in embedder.manifest.tasks else next(iter(embedder.manifest.tasks), "")
            vectors = embedder.encode(TEXTS, task=task or None)
        assert np.isfinite(vectors).all()
        assert len(vectors) == len(TEXTS)

    def load_tokenizer(path: Path) -> None:
        raw = read_raw(path.parent)
        raw["files"][path.name]["size"] = path.stat().st_size
        write_raw(path.parent, raw)
        with Embedder(path.parent, device="cpu", threads=1, verify="never") as embedder:
            embedder.encode(TEXTS)
            embedder.tokenizer(TEXTS, truncation=True, padding=True)
            embedder.token_count(TEXTS, truncation=False)

    def verify(path: Path) -> None:
        texts = parity_items_of((places["parity"] / route.parity_texts).read_bytes(), route.parity_texts)
        name, shape = route.parity_vectors, (len(texts), manifest.dim)
        parity_vectors_of((places["parity"] / name).read_bytes(), name, shape)
        rehash(places["parity"])  # the hash of a damaged file would hide all that comes after it
        with Embedder(places["parity"], device="cpu", threads=1, verify="never") as embedder:
            verify_bundle(embedder)

    places = {name: copy_bundle(bundle, folder / name) for name in ("manifest", "load", "tokenizer", "parity", "tuned")}
    tuning = result.Tuning(
        2,
        result.conditions(manifest),
        "cpu",
        "float32",
        20,
        (result.Setting("float32", "cpu", 1, 512, 100.0, 1.0, 1.0, 1.0),),
        (),
        {"float32 on coreml": "no"},
    )
    result.write(places["tuned"], tuning)
    home = user_cache()
    home.mkdir(parents=True, exist_ok=True)
    check_files(bundle, manifest.files, "once")
    seen = {"size": 0, "mtime_ns": 0, "inode": 0, "sha256": "0" * 64}
    verified = json.dumps({"files": {"/a": seen, "/b": seen}})
    parity: dict[Path, tuple[bytes, ...]] = {
        places["parity"] / name: ((bundle / name).read_bytes(),) for name in (route.parity_texts, route.parity_vectors)
    }
    return [
        Target("manifest", {places["manifest"] / MANIFEST: manifests}, lambda path: read_manifest(path.parent), 230),
        Target("load", {places["load"] / MANIFEST: manifests}, load, 20),
        Target(
            "tokenizer",
            {places["tokenizer"] / route.tokenizer: ((bundle / route.tokenizer).read_bytes(),)},
            load_tokenizer,
            20,
        ),
        Target("parity", parity, verify, 20),
        Target(
            "tuned",
            {places["tuned"] / TUNED: ((places["tuned"] / TUNED).read_bytes(),)},
            lambda path: result.read(path.parent, manifest),
            80,
        ),
        Target(
            "verified",
            {home / "verified.json": (verified.encode(),)},
            lambda _: check_files(bundle, {"config.json": manifest.files["config.json"]}, "once"),
            80,
        ),
    ]


def _model_targets(model: Path, folder: Path) -> list[Target]:
    def contents(name: str) -> tuple[bytes, ...]:
        return ((model / name).read_bytes(),)

    def read_configs(path: Path) -> None:
        place = path.parent.parent if path.parent.name.endswith("_Pooling") else path.parent
        for module in transformers(read_repo(place)):
            settings = module.transformer
            name = family_name(settings.config, settings.architecture)
            check_supported({**settings.config, "model_type": name}, FAMILIES)
            family = FAMILIES[name]
            config = choose_task(family, family.read_config(settings.config), None)
            family.positions(config)

    def build(path: Path) -> None:
        place = next(parent for parent in path.parents if parent.name == "export")
        check_model_files(place)
        spec = read_repo(place)
        located = Located(place, Source("folder", "x", None), "x")
        decisions = decide(spec, located, ExportOptions("auto", None, None), None)
        with staging(folder / "built") as fresh:
            (fresh / "onnx").mkdir()
            with DataFile(fresh / "onnx" / "model.onnx_data") as data:
                for route, chain in spec.chains.items():
                    build_route(fresh, data, route, chain, decisions)

    def read_weights(path: Path) -> None:
        with Weights(path.parent, ("bert.",)) as weights:
            for name, tensor in [*weights._tensors.items()]:
                if tensor.dtype in {"I64", "I32"}:
                    weights.integers(name)
                else:
                    weights(name, *tensor.shape)
            weights.unused(("encoder",))

    places = {
        name: Path(shutil.copytree(model, folder / name))
        for name in ("configs", "modules", "export", "weights", "shards", "build")
    }
    weights = contents("model.safetensors")
    small = _small_safetensors(folder / "small.safetensors")
    shards = places["shards"]
    (shards / "model.safetensors").rename(shards / "model-1.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors"}}
    settings = ["config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling/config.json"]
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    padding = {"content": "[PAD]", **flags, "special": True}
    tokens = {
        "tokenizer_class": "BertTokenizer",
        "model_max_length": 48,
        "pad_token": "[PAD]",
        "cls_token": {"__type": "AddedToken", "content": "[CLS]", **flags},
        "added_tokens_decoder": {"0": padding},
        "truncation_side": "right",
    }
    for place in (places["build"], places["export"]):
        (place / "tokenizer_config.json").write_text(json.dumps(tokens))
    every = [*settings, "config.json", "modules.json", "tokenizer_config.json", "tokenizer.json"]
    return [
        Target("config", {places["configs"] / "config.json": _configs(model)}, read_configs, 170),
        Target(
            "modules",
            {places["modules"] / name: contents(name) for name in ("modules.json", *settings)},
            read_configs,
            110,
        ),
        Target(
            "safetensors",
            {places["weights"] / "model.safetensors": (small, weights[0])},
            read_weights,
            90,
            damage_header,
        ),
        _torch_target(folder),
        _multi_vector_target(folder),
        Target("shards", {shards / "model.safetensors.index.json": (json.dumps(index).encode(),)}, read_weights, 20),
        Target(
            "build-tokenizer",
            {
                places["build"] / name: ((places["build"] / name).read_bytes(),)
                for name in ("tokenizer.json", "tokenizer_config.json")
            },
            lambda path: build_tokenizer(path.parent, "bert", 200, do_lower_case=False),
            40,
        ),
        Target(
            "export", {places["export"] / name: ((places["export"] / name).read_bytes(),) for name in every}, build, 20
        ),
    ]


def _torch_target(folder: Path) -> Target:
    """The description of tensors in a file of torch.save."""
    place = folder / "torch"
    place.mkdir()
    with zipfile.ZipFile(LATE_REFERENCE / "sparse_linear.pt") as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    pickled = members.pop("data.pkl")

    def read(path: Path) -> None:
        with zipfile.ZipFile(place / "x.pt", "w") as archive:
            for name, content in {**members, "data.pkl": path.read_bytes()}.items():
                archive.writestr(f"x/{name}", content)
        for tensor in open_tensors(place / "x.pt"):
            tensor.read()

    return Target("torch-file", {place / "data.pkl": (pickled,)}, read, 20)


def _multi_vector_target(folder: Path) -> Target:
    """The settings of multi-vector models in three formats."""
    files: dict[Path, tuple[bytes, ...]] = {}
    names = ("config_sentence_transformers.json", "sentence_bert_config.json", "modules.json", "artifact.metadata")
    for name in ("least", "pylate", "stanford"):
        place = late_models.MODELS[name](folder / f"late-{name}")
        files.update({place / file: ((place / file).read_bytes(),) for file in names if (place / file).is_file()})

    def read(path: Path) -> None:
        check_model_files(path.parent)
        spec = read_repo(path.parent, recognize(path.parent).task)
        if spec.task == "multi-vector":
            late = spec.chains["default"][0].transformer.late
            tokenizer = build_tokenizer(path.parent, "bert", 200, do_lower_case=False, markers=late.markers)
            settings_of(spec.chains["default"], tokenizer, 64)

    return Target("multi-vector", files, read, 20)


def _configs(model: Path) -> tuple[bytes, ...]:
    """One config.json of every family."""
    own = json.loads((model / "config.json").read_bytes())
    cases = Path(__file__).parents[1] / "kit" / "families"
    contents = [own]
    contents += [
        {"model_type": path.stem, **json.loads(path.read_bytes())["defaults"].get("config", {})}
        for path in sorted(cases.glob("*.json"))
    ]
    return tuple(json.dumps(content).encode() for content in contents)


def _small_safetensors(path: Path) -> bytes:
    """Tensors of all kinds in a small file, whose headers take most of the inputs."""
    from safetensors.numpy import save_file

    halves = np.arange(6).reshape(2, 3).astype(np.float16)
    arrays = {"bert.a": halves.astype(np.float32), "bert.b": halves, "bert.ids": np.arange(6), "scalar": np.array(1.0)}
    save_file({**arrays, "empty": np.zeros((0, 4), np.float32)}, path, {"format": "pt"})
    return path.read_bytes()


def _vector_targets(folder: Path) -> list[Target]:
    (folder / "vectors").mkdir()
    model = Model("org/otter", "0a" * 32)
    files: dict[str, Path] = {}
    for suffix in (".npy", ".safetensors", ".parquet"):
        files[suffix] = folder / "vectors" / f"v{suffix}"
        save_embeddings(files[suffix], TEXTS, vectors_of(len(TEXTS)), model)
    several = {}
    for suffix in (".safetensors", ".parquet"):
        several[suffix] = folder / "vectors" / f"several{suffix}"
        save_embeddings(several[suffix], TEXTS, [vectors_of(count) for count in (2, 0, 3)], model)
    beside = folder / "vectors" / "v.npy.json"
    foreign = folder / "vectors" / "foreign.parquet"
    _write_foreign(foreign)

    def read_npy(path: Path) -> None:
        """The hash of a damaged matrix would hide all that comes after it."""
        if path.suffix == ".npy":
            import hashlib

            record = json.loads(beside.read_bytes())
            beside.write_text(json.dumps({**record, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))
        load_embeddings(files[".npy"], model)

    def one(*paths: Path) -> dict[Path, tuple[bytes, ...]]:
        return {path: (path.read_bytes(),) for path in paths}

    return [
        Target("npy", one(files[".npy"], beside), read_npy, 50),
        Target(
            "vectors-safetensors",
            one(files[".safetensors"], several[".safetensors"]),
            lambda path: load_embeddings(path, model),
            30,
            damage_header,
        ),
        Target("parquet", one(files[".parquet"], foreign, several[".parquet"]), load_embeddings, 20),
    ]


def _write_foreign(path: Path) -> None:
    """A Parquet file without checksums, as other programs write it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = [[float(i), 2.0] for i in range(3)]
    table = pa.table({"text": ["a", "b", "c"], "embedding": pa.array(vectors, pa.list_(pa.float32()))})
    pq.write_table(table, path, compression="none")
