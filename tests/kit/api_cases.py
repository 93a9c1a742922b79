"""Calls of the encode API as data, for the comparison with sentence-transformers: models, inputs, arguments.

Most cases are made by `covering`: for every model, every two values of two parameters meet in at least one call.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.kit.models import vocabulary, write_json, write_tokenizer

Arguments = dict[str, Any]

WIDTH = 384
NARROW = 64
LIMIT = 24


@dataclass(frozen=True)
class Variant:
    """A model folder on the weights of all-MiniLM-L6-v2.

    Attributes:
        modules: What comes after the transformer: kind and config of each.
        settings: What config_sentence_transformers.json says.
        routes: Whether queries take a static table instead of transformer and pooling.
        transformer: Whether there is a transformer at all.
    """

    modules: tuple[tuple[str, dict[str, Any]], ...]
    settings: dict[str, Any] = field(default_factory=dict)
    routes: bool = False
    transformer: bool = True


def _pooling(mode: str | list[str] = "mean", **more: Any) -> tuple[str, dict[str, Any]]:
    return "Pooling", {"embedding_dimension": WIDTH, "pooling_mode": mode, **more}


_DENSE = ("Dense", {"in_features": WIDTH, "out_features": NARROW, "bias": True})
_NORMALIZE: tuple[str, dict[str, Any]] = ("Normalize", {})
_PROMPTS = {"query": "Find this: ", "passage": "Text: ", "topic": "Name the topic: "}
_STATIC = "StaticEmbedding"

# None is the package's own folder.
VARIANTS: dict[str, Variant | None] = {
    "plain": None,
    "raw": Variant((_pooling(),)),
    "dense": Variant((_pooling("cls"), _DENSE), {"similarity_fn_name": "euclidean"}),
    "prompts": Variant(
        (_pooling(), _NORMALIZE),
        {"prompts": _PROMPTS, "default_prompt_name": "topic", "similarity_fn_name": "manhattan"},
    ),
    "left out": Variant((_pooling(include_prompt=False), _NORMALIZE), {"prompts": _PROMPTS | {"document": "Read: "}}),
    "truncated": Variant(
        (_pooling(["mean", "max"]),),
        {"prompts": {"corpus": "Entry: "}, "truncate_dim": 96, "similarity_fn_name": "dot"},
    ),
    "static": Variant((_NORMALIZE,), {"prompts": {"query": "the "}}, transformer=False),
    "router": Variant((_DENSE, _NORMALIZE), {"prompts": {"query": "two ", "document": "three "}}, routes=True),
}
PROMPT_NAMES = {
    "prompts": tuple(_PROMPTS),
    "left out": (*_PROMPTS, "document"),
    "truncated": ("corpus",),
    "static": ("query",),
    "router": ("query", "document"),
}

# The texts of every call, by the name that cases use.
INPUTS: dict[str, Any] = {
    "text": "The weather is lovely today.",
    "nothing": "",
    "numpy text": np.str_("the river bank"),
    "three": ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."],
    "tuple": ("A cat and a dog.", "It's so sunny outside!"),
    "array": np.array(["It's so sunny outside!", "the river bank", "one"]),
    "objects": np.array(["He drove to the stadium.", "one", "A cat and a dog."], dtype=object),
    "empty": [],
    "empty tuple": (),
    "empty array": np.array([], dtype=str),
    "one": ["The weather is lovely today."],
    "same": ["one", "one"],
    "unicode": ["Größe, naïve café", "天气很好 🙂", "مرحبا بالعالم", "\ufeffe\u0301 ﬁ ½"],
    "long": ["a short text", "word " * 60, "the boat of the dog, " * 9, "one two"],
    "blank": ["", " ", "\n\t", "one"],
    "five": ["one", "two dogs", "The river bank and the boat.", "It's so sunny outside!", "He drove to the stadium."],
    "short": ["one", "two dogs and a cat"],
    # What is not text, or not a batch of it.
    "none": None,
    "number": 5,
    "bytes": b"text",
    "set": {"one"},
    "dict": {"text": "one"},
    "numbers": [1, 2],
    "a number among texts": ["one", 2],
    "a None among texts": ["one", None],
    "bytes among texts": ["one", b"two"],
    "array of numbers": np.arange(3),
    "array of lists": np.array([["one", "two"], ["three", "four"]]),
    "pairs": [("one", "two")],
    "lists": [["one"], ["two"]],
    "a set among texts": ["one", {"two"}],
}
TEXTS = tuple(list(INPUTS)[:17])
NOT_TEXTS = tuple(list(INPUTS)[17:])


def _draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Any:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


# The embeddings that similarities are computed of, by the name that cases use.
ARRAYS: dict[str, Any] = {
    "matrix": _draw(3, 8),
    "other": _draw(4, 8, seed=1, scale=3),
    "third": _draw(3, 8, seed=4),
    "double": _draw(3, 8, seed=2).astype(np.float64),
    "half": _draw(3, 8, seed=3).astype(np.float16),
    "vector": _draw(8, seed=5),
    "zeros": np.zeros((3, 8), np.float32),
    "lists": _draw(3, 8, seed=6).tolist(),
    "list": _draw(8, seed=7).tolist(),
    "rows": list(_draw(3, 8, seed=8)),
    "narrow": _draw(3, 5, seed=9),
    "none of them": np.zeros((0, 8), np.float32),
    "bytes": np.random.default_rng(0).integers(-128, 128, (3, 8)).astype(np.int8),
}

# Which arguments are names in the tables above.
TABLES: dict[str, dict[str, Any]] = {
    "inputs": INPUTS,
    "sentences": INPUTS,
    "texts": INPUTS,
    "embeddings1": ARRAYS,
    "embeddings2": ARRAYS,
}


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        variant: Which of `VARIANTS`.
        name: The method, or the attribute.
        arguments: What the method is called with, in the order of its parameters; None reads the attribute.
        by_position: How many of the arguments are passed without their names.
        constructor: What the model is made with.
        settings: Attributes that are set before the call, and set back after it.
        within: The dimensions of a context of `truncate_embeddings` around the call; 0 for no context.
    """

    variant: str
    name: str
    arguments: Arguments | None
    by_position: int = 1
    constructor: Arguments = field(default_factory=dict)
    settings: Arguments = field(default_factory=dict)
    within: int | None = 0

    def __str__(self) -> str:
        made = f"{self.variant}({_shown(self.constructor)})"
        set_to = f" [{_shown(self.settings)}]" if self.settings else ""
        context = "" if self.within == 0 else f" within {self.within}"
        if self.arguments is None:
            return f"{made}{set_to}{context}.{self.name}"
        shown = [_shown({name: value}) for name, value in self.arguments.items()]
        shown[: self.by_position] = [repr(value) for value in list(self.arguments.values())[: self.by_position]]
        return f"{made}{set_to}{context}.{self.name}({', '.join(shown)})"


def _shown(arguments: Arguments) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def write_variant(name: str, source: Path, folder: Path) -> Path:
    """Writes the model folder of a variant.

    Args:
        name: Which of `VARIANTS`.
        source: The folder of all-MiniLM-L6-v2.
        folder: Where to write.

    Returns:
        `folder`, or `source` where the variant is the model as it is.
    """
    variant = VARIANTS[name]
    if variant is None:
        return source
    entries = [(kind, f"{i}_{kind}", config) for i, (kind, config) in enumerate(variant.modules, start=1)]
    if variant.routes:
        _write_transformer(source, folder / "document_0_Transformer")
        _write_module("Pooling", _pooling()[1], folder / "document_1_Pooling")
        _write_table(folder / "query_0_StaticEmbedding")
        routes = {
            "query": ["query_0_StaticEmbedding"],
            "document": ["document_0_Transformer", "document_1_Pooling"],
        }
        types = {place: _type(place.split("_")[2]) for places in routes.values() for place in places}
        parameters: Arguments = {"default_route": "document", "allow_empty_key": True, "route_mappings": {}}
        write_json(folder / "router_config.json", {"types": types, "structure": routes, "parameters": parameters})
        entries.insert(0, ("Router", "", {}))
    elif variant.transformer:
        _write_transformer(source, folder)
        entries.insert(0, ("Transformer", "", {}))
    else:
        _write_table(folder)
        entries.insert(0, (_STATIC, "", {}))
    for kind, path, config in entries[1:]:
        _write_module(kind, config, folder / path)
    modules: list[Arguments] = [
        {"idx": i, "name": str(i), "path": path, "type": _type(kind)} for i, (kind, path, _) in enumerate(entries)
    ]
    if variant.routes:
        modules[0]["kwargs"] = ["task"]
    write_json(folder / "modules.json", modules)
    versions = {"sentence_transformers": "6.2.0"}
    write_json(folder / "config_sentence_transformers.json", {"__version__": versions, **variant.settings})
    return folder


def _type(kind: str) -> str:
    shared = {"Transformer", "Dense", "Normalize", "Router"}
    package = "base" if kind in shared else "sentence_transformer"
    return f"sentence_transformers.{package}.modules.{kind}"


def _write_transformer(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(source / name, folder / name)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": LIMIT, "do_lower_case": False})


def _write_table(folder: Path) -> None:
    write_tokenizer(folder, "bert")
    rows = len(vocabulary("bert"))
    save_file({"embedding.weight": _draw(rows, WIDTH, seed=11, scale=0.3)}, folder / "model.safetensors")


def _write_module(kind: str, config: Arguments, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if config:
        write_json(folder / "config.json", config)
    if kind == "Dense":
        shape = config["out_features"], config["in_features"]
        tensors = {"linear.weight": _draw(*shape, seed=12, scale=0.1), "linear.bias": _draw(shape[0], seed=13)}
        save_file(tensors, folder / "model.safetensors")


def data_digest() -> str:
    """SHA-256 of what stands behind the names in the cases: models, texts and arrays."""

    def plain(value: Any) -> Any:
        return value.tolist() if isinstance(value, np.ndarray) else repr(value)

    content = json.dumps([repr(VARIANTS), INPUTS, ARRAYS], default=plain)
    return hashlib.sha256(content.encode()).hexdigest()


def covering(parameters: dict[str, list[Any]], seed: int) -> list[dict[str, Any]]:
    """Rows of one value a parameter, such that every two values of two parameters meet in a row.

    Greedy: a row begins with a pair that has not met yet, and takes for every other parameter the value that brings
    most new pairs.
    """
    draw = random.Random(seed)
    names = list(parameters)
    missing = {
        frozenset({(a, i), (b, j)})
        for a, b in combinations(names, 2)
        for i in range(len(parameters[a]))
        for j in range(len(parameters[b]))
    }
    rows = []
    while missing:
        first = min(missing, key=lambda pair: sorted((names.index(name), i) for name, i in pair))
        row = dict(first)
        for name in draw.sample([name for name in names if name not in row], len(names) - 2):
            values = list(range(len(parameters[name])))
            draw.shuffle(values)
            row[name] = max(values, key=lambda i: sum(frozenset({(name, i), met}) in missing for met in row.items()))
        missing -= {frozenset(pair) for pair in combinations(row.items(), 2)}
        rows.append({name: parameters[name][row[name]] for name in names})
    return rows


def _calls(variant: str, name: str, choices: dict[str, list[Arguments]], seed: int) -> list[Case]:
    """Cases from choices of arguments: every choice is some arguments together, `{}` the default."""
    return [
        Case(variant, name, {key: value for chosen in row.values() for key, value in chosen.items()})
        for row in covering(choices, seed)
    ]


def _each(name: str, *values: Any) -> list[Arguments]:
    return [{name: value} for value in values]


def _prompts(variant: str) -> list[Arguments]:
    named = PROMPT_NAMES.get(variant, ())
    both = [{"prompt_name": named[0], "prompt": "the "}] if named else []
    return [{}, *_each("prompt_name", *named), {"prompt": "Say: "}, {"prompt": ""}, *both]


def _sentences() -> Iterable[Case]:
    """Sentence embeddings, all parameters."""
    for seed, variant in enumerate(VARIANTS):
        choices = {
            "inputs": _each("inputs", "text", "three", "tuple", "array", "objects", "empty", "one", "unicode", "long"),
            "prompt": _prompts(variant),
            "batch_size": [{}, *_each("batch_size", 1, 2, 100)],
            "show_progress_bar": [{}, *_each("show_progress_bar", None, False, True)],
            "output_value": [{}, {"output_value": "sentence_embedding"}],
            "precision": [{}, *_each("precision", "float32", "int8", "uint8", "binary", "ubinary")],
            "convert": [{}, {"convert_to_numpy": True}, {"convert_to_tensor": False}],
            "device": [{}, *_each("device", None, "cpu")],
            "normalize_embeddings": [{}, *_each("normalize_embeddings", False, True)],
            "truncate_dim": [{}, *_each("truncate_dim", None, 1, 16)],
            "pool": [{}, {"pool": None, "chunk_size": None}],
        }
        yield from _calls(variant, "encode", choices, seed)


def _queries_and_documents() -> Iterable[Case]:
    for seed, variant in enumerate(VARIANTS):
        for name in ("encode_query", "encode_document"):
            choices = {
                "inputs": _each("inputs", "text", "three", "tuple", "empty"),
                "prompt": _prompts(variant),
                "batch_size": [{}, {"batch_size": 1}],
                "precision": [{}, *_each("precision", "int8", "ubinary")],
                "normalize_embeddings": [{}, {"normalize_embeddings": True}],
                "truncate_dim": [{}, {"truncate_dim": 16}],
            }
            yield from _calls(variant, name, choices, seed)


def _tokens() -> Iterable[Case]:
    """Token embeddings, and all that the model has."""
    for seed, variant in enumerate(("raw", "dense", "left out", "truncated", "static", "router")):
        for name in ("encode", "encode_query", "encode_document"):
            choices = {
                "inputs": _each("inputs", "numpy text", "short", "same", "empty"),
                "output_value": _each("output_value", "token_embeddings", None),
                "prompt": [{}, {"prompt": "the "}, *_each("prompt_name", *PROMPT_NAMES.get(variant, ())[:1])],
                "batch_size": [{}, {"batch_size": 1}],
                "normalize_embeddings": [{}, {"normalize_embeddings": True}],
                "truncate_dim": [{}, {"truncate_dim": 16}],
            }
            some = _calls(variant, name, choices, seed)
            yield from some if name == "encode" else some[::4]
    for output_value in ("token_embeddings", None):
        for precision in ("float32", "int8", "ubinary"):
            for inputs in ("short", "numpy text", "empty"):
                arguments = {"inputs": inputs, "output_value": output_value, "precision": precision}
                yield Case("raw", "encode", arguments)


def _tensors() -> Iterable[Case]:
    """Everything again, with tensors of torch as result."""
    flags = [
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"convert_to_numpy": True, "convert_to_tensor": True},
        {"convert_to_numpy": False, "convert_to_tensor": True},
    ]
    for seed, variant in enumerate(("plain", "dense", "prompts", "router")):
        for name in ("encode", "encode_query", "encode_document"):
            choices = {
                "inputs": _each("inputs", "text", "short", "three", "empty"),
                "flags": flags,
                "precision": [{}, *_each("precision", "int8", "uint8", "binary", "ubinary")],
                "normalize_embeddings": [{}, {"normalize_embeddings": True}],
                "truncate_dim": [{}, {"truncate_dim": 16}],
                "batch_size": [{}, {"batch_size": 1}],
            }
            some = _calls(variant, name, choices, seed)
            yield from some if name == "encode" else some[::5]
    for flag in flags:
        for output_value in ("token_embeddings", None):
            for inputs in ("numpy text", "short", "empty"):
                yield Case("raw", "encode", {"inputs": inputs, "output_value": output_value, **flag})


def _inputs() -> Iterable[Case]:
    """Every kind of input, also what is none."""
    for variant in ("plain", "raw", "router"):
        for inputs in TEXTS:
            yield Case(variant, "encode", {"inputs": inputs})
    for inputs in NOT_TEXTS:
        yield Case("plain", "encode", {"inputs": inputs})
        yield Case("plain", "encode_query", {"inputs": inputs, "batch_size": 1})
    for inputs in ("text", "three", "empty"):
        for name in ("encode", "encode_query", "encode_document"):
            yield Case("plain", name, {"sentences": inputs}, by_position=0)
            yield Case("plain", name, {"inputs": inputs}, by_position=0)
    yield Case("prompts", "encode", {"inputs": "three", "prompt_name": "query"}, by_position=2)
    yield Case("prompts", "encode", {"inputs": "three", "prompt_name": None, "prompt": "the "}, by_position=3)
    everything = {
        "inputs": "five",
        "prompt_name": "passage",
        "prompt": None,
        "batch_size": 2,
        "show_progress_bar": False,
        "output_value": "sentence_embedding",
        "precision": "int8",
        "convert_to_numpy": True,
        "convert_to_tensor": False,
        "device": "cpu",
        "normalize_embeddings": True,
        "truncate_dim": 32,
    }
    for name in ("encode", "encode_query", "encode_document"):
        yield Case("prompts", name, everything, by_position=len(everything))


WRONG: dict[str, list[Any]] = {
    "batch_size": [0, -1, 2.5, "3"],
    "prompt_name": ["unknown", "", 5],
    "prompt": [5, b"the "],
    "output_value": ["tokens", "input_ids", 1],
    "precision": ["float16", "int4", "INT8", 8],
    "truncate_dim": [0, -1, 385, 1000, 2.5, "8"],
    "device": ["gpu", "cuda:77", 5],
    "task": ["passage"],
    "unknown": [1],
    "processing_kwargs": [{"text": {"max_length": 5}}],
}


# Wrong in sentence-transformers alone.
ALLOWED: dict[str, list[Any]] = {"batch_size": [None]}


def _wrong_arguments() -> Iterable[Case]:
    for argument, values in WRONG.items():
        for value in [*values, *ALLOWED.get(argument, ())]:
            for inputs in ("text", "three"):
                yield Case("plain", "encode", {"inputs": inputs, argument: value})
            yield Case("prompts", "encode_document", {"inputs": "empty", argument: value})
    yield Case("plain", "encode", {"inputs": "text", "precision": None})
    yield Case("prompts", "encode_document", {"inputs": "empty", "precision": None})
    # Two at once: both are wrong, whichever is told.
    names = ("batch_size", "precision", "prompt_name", "truncate_dim")
    for first, second in combinations(names, 2):
        yield Case("plain", "encode", {"inputs": "three", first: WRONG[first][0], second: WRONG[second][0]})


CONSTRUCTORS: list[Arguments] = [
    {"device": "cpu"},
    {"truncate_dim": 32},
    {"prompts": {"query": "query: ", "extra": "extra: "}},
    {"prompts": {"extra": "extra: "}, "default_prompt_name": "extra"},
    {"prompts": {"query": "", "document": ""}},
    {"similarity_fn_name": "dot", "truncate_dim": 16, "trust_remote_code": True},
    {"similarity_fn_name": "euclidean", "local_files_only": True, "cache_folder": None, "revision": None},
    {"default_prompt_name": "query"},
]
ATTRIBUTES = (
    "max_seq_length",
    "prompts",
    "default_prompt_name",
    "truncate_dim",
    "similarity_fn_name",
    "device",
)


def _constructors() -> Iterable[Case]:
    for variant in ("plain", "prompts", "truncated"):
        for made in CONSTRUCTORS:
            for name in ("encode", "encode_query", "encode_document"):
                yield Case(variant, name, {"inputs": "short"}, constructor=made)
            yield Case(variant, "encode", {"inputs": "short", "truncate_dim": 24, "prompt": "the "}, constructor=made)
            yield Case(variant, "get_embedding_dimension", {}, constructor=made)
            yield Case(variant, "similarity", {"embeddings1": "matrix", "embeddings2": "other"}, 2, constructor=made)
            for attribute in ATTRIBUTES[1:5]:
                yield Case(variant, attribute, None, constructor=made)
    for made in (
        {"default_prompt_name": "unknown"},
        {"similarity_fn_name": "jaccard"},
        {"similarity_fn_name": "maxsim"},
        {"device": "gpu"},
        {"unknown": 1},
        {"backend": "tensorflow"},
        {"modules": []},
    ):
        yield Case("plain", "encode", {"inputs": "text"}, constructor=made)


def _state() -> Iterable[Case]:
    """Attributes read and set, and what they do to the next call."""
    for variant in VARIANTS:
        for attribute in ATTRIBUTES:
            yield Case(variant, attribute, None)
        for name in ("get_embedding_dimension", "get_sentence_embedding_dimension", "get_max_seq_length"):
            yield Case(variant, name, {})
        for dim in (None, 8, 2000):
            yield Case(variant, "get_embedding_dimension", {}, within=dim)
        for dim in (None, 8):
            yield Case(variant, "encode", {"inputs": "short"}, within=dim)
        yield Case(variant, "encode", {"inputs": "short", "truncate_dim": 12, "precision": "ubinary"}, within=8)
        for limit in (3, 10):
            yield Case(variant, "max_seq_length", None, settings={"max_seq_length": limit})
        if variant in ("static", "router"):
            continue
        for inputs in ("text", "long"):
            yield Case(variant, "encode", {"inputs": inputs}, settings={"max_seq_length": 3})
            yield Case(variant, "encode", {"inputs": inputs}, settings={"max_seq_length": 10})
        # A limit below the prompt's tokens would depend on calls before: their count is kept for every prompt.
        yield Case(variant, "encode_query", {"inputs": "three"}, settings={"max_seq_length": 10})
    for value in (0, -1, 2, 512, 513, 1000, 2.5, "8", None):
        yield Case("plain", "max_seq_length", None, settings={"max_seq_length": value})
        yield Case("plain", "encode", {"inputs": "short"}, settings={"max_seq_length": value})
    yield Case("plain", "encode", {"inputs": "short", "output_value": None}, settings={"max_seq_length": 4})
    new = {"query": "Q: ", "extra": "Extra: "}
    for settings in (
        {"prompts": new},
        {"prompts": new, "default_prompt_name": "extra"},
        {"default_prompt_name": "query"},
        {"default_prompt_name": "extra"},
        {"default_prompt_name": None},
        {"truncate_dim": 20},
    ):
        for variant in ("plain", "prompts"):
            for name in ("encode", "encode_query", "encode_document"):
                yield Case(variant, name, {"inputs": "short"}, settings=settings)
            yield Case(variant, "encode", {"inputs": "short", "prompt_name": "extra"}, settings=settings)
            yield Case(variant, next(iter(settings)), None, settings=settings)


def _similarities() -> Iterable[Case]:
    functions = ("cosine", "dot", "euclidean", "manhattan")
    firsts = ("matrix", "double", "half", "vector", "zeros", "lists", "list", "rows", "none of them")
    seconds = ("third", "other", "vector", "rows", "double", "narrow")
    for seed, name in enumerate(("similarity", "similarity_pairwise")):
        choices = {
            "embeddings1": _each("embeddings1", *firsts),
            "embeddings2": _each("embeddings2", *seconds),
            "function": _each("function", *functions),
        }
        for case in _calls("plain", name, choices, seed):
            arguments = {**(case.arguments or {})}
            function = arguments.pop("function")
            yield replace(case, arguments=arguments, by_position=2, settings={"similarity_fn_name": function})
        for variant in ("plain", "dense", "prompts", "truncated"):
            yield Case(variant, name, {"embeddings1": "matrix", "embeddings2": "third"}, by_position=0)
        yield Case("plain", name, {"embeddings1": "bytes", "embeddings2": "bytes"}, by_position=2)
    for value in ("jaccard", "maxsim", "", 1):
        yield Case("plain", "similarity_fn_name", None, settings={"similarity_fn_name": value})
    yield Case("dense", "similarity_fn_name", None, settings={"similarity_fn_name": None})


def _tokenizing() -> Iterable[Case]:
    for variant in ("plain", "raw", "static", "router"):
        for inputs in ("one", "short", "long", "tuple", "unicode"):
            yield Case(variant, "tokenize", {"texts": inputs})
    yield Case("plain", "tokenize", {"texts": "empty"})


def _processes() -> Iterable[Case]:
    """A few calls with processes; `pool` is the list of devices to start it with."""
    devices = ["cpu", "cpu"]
    for arguments in (
        {"inputs": "five", "pool": devices},
        {"inputs": "five", "pool": devices, "chunk_size": 2, "normalize_embeddings": True, "truncate_dim": 16},
        {"inputs": "text", "pool": devices},
        {"inputs": "five", "precision": "uint8", "prompt_name": "query", "pool": devices, "chunk_size": 1},
        {"inputs": "empty", "pool": devices},
        {"inputs": "five", "pool": devices, "chunk_size": 0},
        {"inputs": "five", "device": devices, "chunk_size": 2},
        {"inputs": "three", "device": devices},
        {"inputs": "three", "device": ["cpu"], "precision": "ubinary"},
        {"inputs": "three", "device": []},
        {"inputs": "short", "output_value": "token_embeddings", "device": devices},
    ):
        yield Case("left out", "encode", arguments)
    yield Case("left out", "encode_query", {"inputs": "five", "pool": devices})
    yield Case("left out", "encode_document", {"inputs": "five", "device": devices, "batch_size": 1})
    yield Case("left out", "encode_multi_process", {"sentences": "five", "pool": devices}, by_position=2)


def _all() -> list[Case]:
    groups = (
        _sentences,
        _queries_and_documents,
        _tokens,
        _tensors,
        _inputs,
        _wrong_arguments,
        _constructors,
        _state,
        _similarities,
        _tokenizing,
        _processes,
    )
    return list({str(case): case for group in groups for case in group()}.values())


CASES = _all()
