"""A model folder to a `ModelSpec`: both generations of configs, and every refusal by name."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedrt import Embedder, EmbedrtError, ExportError, UnsupportedModelError
from embedrt_export import export
from embedrt_export.heads.pooling import Pooling
from embedrt_export.routes.modules import ModuleSpec, Transformer
from embedrt_export.routes.repo import ModelSpec, read_repo
from tests.kit.edits import edit_json
from tests.kit.models import make_model, write_json

POOLING = "1_Pooling/config.json"
TRANSFORMER = "sentence_bert_config.json"
TOP = "config_sentence_transformers.json"
OLD_MODES = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
NEW_TYPES = (
    "sentence_transformers.base.modules.transformer.Transformer",
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "sentence_transformers.base.modules.normalize.Normalize",
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model", prompts={"query": "q: "})


def chain(folder: Path) -> tuple[ModuleSpec, ...]:
    """The modules of the one route."""
    return read_repo(folder).chains["default"]


def transformer(folder: Path) -> Transformer:
    settings = chain(folder)[0].settings
    assert isinstance(settings, Transformer)
    return settings


def modes(folder: Path) -> tuple[str, ...]:
    settings = chain(folder)[1].settings
    assert isinstance(settings, Pooling)
    return settings.pooling_mode


def old_pooling(*modes: str, dimension: int = 32) -> dict[str, Any]:
    """A pooling config as sentence-transformers wrote it until 5.3."""
    flags = {f"pooling_mode_{mode}": mode in modes for mode in OLD_MODES}
    return {"word_embedding_dimension": dimension, **flags, "include_prompt": True}


def edit_modules(folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    entries = json.loads((folder / "modules.json").read_bytes())
    change(entries)
    write_json(folder / "modules.json", entries)


def test_new_generation(tmp_path: Path) -> None:
    """Every key that sentence-transformers 6.2 saves for a text encoder."""
    model = make_model(tmp_path / "model", max_seq_length=None)
    edit_modules(model, lambda entries: [e.update(type=t) for e, t in zip(entries, NEW_TYPES, strict=True)])
    write_json(
        model / TRANSFORMER,
        {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        },
    )
    write_json(
        model / "2_Normalize" / "config.json",
        {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"},
    )
    write_json(
        model / TOP,
        {
            "__version__": {"pytorch": "2.13.0", "sentence_transformers": "6.2.0", "transformers": "5.23.0"},
            "default_prompt_name": "query",
            "model_type": "SentenceTransformer",
            "prompts": {"document": "", "query": "q: "},
            "similarity_fn_name": "cosine",
            "truncate_dim": 16,
        },
    )

    spec = read_repo(model)

    assert [part.kind for part in chain(model)] == ["Transformer", "Pooling", "Normalize"]
    assert modes(model) == ("mean",)
    assert transformer(model).max_seq_length is None
    assert transformer(model).do_lower_case is False
    assert spec.prompts == {"document": "", "query": "q: "}
    assert spec.default_prompt_name == "query"
    assert spec.similarity_fn_name == "cosine"
    assert spec.truncate_dim == 16


def test_old_generation(model: Path) -> None:
    """What all-MiniLM-L6-v2 has: booleans, and little else."""
    write_json(model / POOLING, {key: value for key, value in old_pooling("mean_tokens").items() if key[0] != "i"})
    write_json(model / TRANSFORMER, {"max_seq_length": 256, "do_lower_case": True})
    write_json(model / TOP, {"__version__": {"sentence_transformers": "2.0.0", "pytorch": "1.7.0"}})

    spec = read_repo(model)

    assert (spec.folder, chain(model)[0].folder, transformer(model).architecture) == (model, model, "bert")
    assert (transformer(model).max_seq_length, transformer(model).do_lower_case) == (256, True)
    assert (spec.prompts, spec.default_prompt_name, spec.truncate_dim, spec.similarity_fn_name) == (
        {},
        None,
        None,
        None,
    )
    assert [(part.kind, part.path) for part in chain(model)] == [
        ("Transformer", ""),
        ("Pooling", "1_Pooling"),
        ("Normalize", "2_Normalize"),
    ]
    assert modes(model) == ("mean",)


@pytest.mark.parametrize(
    ("active", "expected"),
    [
        (("cls_token",), ("cls",)),
        (("mean_tokens", "max_tokens", "cls_token"), ("cls", "max", "mean")),
        (("mean_tokens", "cls_token"), ("cls", "mean")),
        ((), ("mean",)),
    ],
)
def test_old_pooling_booleans_have_one_order(model: Path, active: tuple[str, ...], expected: tuple[str, ...]) -> None:
    write_json(model / POOLING, dict(reversed(old_pooling(*active).items())))
    assert modes(model) == expected


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("cls", ("cls",)), (["mean"], ("mean",)), (["mean", "cls", "max"], ("mean", "cls", "max"))],
)
def test_new_pooling_mode_keeps_its_order(model: Path, mode: str | list[str], expected: tuple[str, ...]) -> None:
    edit_json(model / POOLING, pooling_mode=mode)
    assert modes(model) == expected


def test_new_pooling_mode_wins_over_the_booleans(model: Path) -> None:
    edit_json(model / POOLING, pooling_mode="cls", pooling_mode_mean_tokens=True)
    assert modes(model) == ("cls",)


def test_old_and_new_dimension_names(model: Path) -> None:
    edit_json(model / POOLING, word_embedding_dimension=32, embedding_dimension=...)
    assert modes(model) == ("mean",)
    edit_json(model / POOLING, word_embedding_dimension=99, embedding_dimension=32)
    assert modes(model) == ("mean",)


def test_without_normalize(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", normalize=False)
    assert [part.kind for part in chain(model)] == ["Transformer", "Pooling"]


def test_transformer_in_a_subfolder(model: Path) -> None:
    inner = model / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", TRANSFORMER):
        (model / name).rename(inner / name)
    edit_modules(model, lambda entries: entries[0].update(path="0_Transformer"))

    spec = read_repo(model)

    assert (spec.folder, chain(model)[0].folder, transformer(model).max_seq_length) == (model, inner, 48)


@pytest.mark.parametrize("family", ["roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"])
def test_other_names_of_the_transformer_config(model: Path, family: str) -> None:
    (model / TRANSFORMER).rename(model / f"sentence_{family}_config.json")
    assert transformer(model).max_seq_length == 48


def test_no_transformer_config_and_no_top_config(model: Path) -> None:
    (model / TRANSFORMER).unlink()
    (model / TOP).unlink()
    settings = transformer(model)
    assert (settings.max_seq_length, settings.do_lower_case, read_repo(model).prompts) == (None, False, {})


def test_null_counts_as_absent_in_the_top_config(model: Path) -> None:
    write_json(model / TOP, {"prompts": None, "default_prompt_name": None, "model_type": None, "truncate_dim": None})
    assert read_repo(model).prompts == {}


def with_module(type_name: str, position: int = 1) -> Callable[[Path], None]:
    return lambda model: edit_modules(model, lambda entries: entries[position].update(type=type_name))


def with_keys(file: str, **changes: Any) -> Callable[[Path], None]:
    return lambda model: edit_json(model / file, **changes)


REFUSED: dict[str, tuple[Callable[[Path], Any], type[ExportError], str]] = {
    "lstm": (with_module("sentence_transformers.models.LSTM", 2), UnsupportedModelError, "models.LSTM' is not supp"),
    "custom class": (with_module("my_st.Transformer", 0), UnsupportedModelError, "'my_st.Transformer'"),
    "custom pooling": (with_module("my.sentence_transformers.Pooling"), UnsupportedModelError, "'my.sentence_trans"),
    "no pooling": (
        lambda model: edit_modules(model, lambda entries: entries.__delitem__(slice(1, None))),
        UnsupportedModelError,
        "no Pooling module",
    ),
    "normalize before pooling": (
        lambda model: edit_modules(model, lambda entries: entries.__delitem__(1)),
        ExportError,
        "Normalize in '2_Normalize': expected the input 'sentence_embedding', but the modules before it only make",
    ),
    "pooling first": (
        lambda model: edit_modules(model, lambda entries: entries.reverse()),
        UnsupportedModelError,
        "expected Transformer, StaticEmbedding, SparseStaticEmbedding as the first module, got Normalize",
    ),
    "transformer after pooling": (
        lambda model: edit_modules(model, lambda entries: entries.append({**entries[0], "idx": 3, "name": "3"})),
        UnsupportedModelError,
        r"^modules\.json: Transformer is not supported after the first module$",
    ),
    "no modules": (lambda model: write_json(model / "modules.json", []), ExportError, "expected a list of modules"),
    "modules not a list": (lambda model: write_json(model / "modules.json", {"0": 1}), ExportError, "expected a list"),
    "too many modules": (
        lambda model: edit_modules(model, lambda entries: entries.extend([entries[2]] * 99_998)),
        UnsupportedModelError,
        r"^modules\.json: expected at most 1000 modules and routes, got 100001",
    ),
    "module kwargs": (
        lambda model: edit_modules(model, lambda entries: entries[0].update(kwargs=["colour"])),
        UnsupportedModelError,
        r"modules.json\[0\].kwargs: colour",
    ),
    "module key": (
        lambda model: edit_modules(model, lambda entries: entries[1].update(device="cpu")),
        UnsupportedModelError,
        r"modules.json\[1\]: unknown field 'device'",
    ),
    "pooling mode": (
        with_keys(POOLING, pooling_mode="attention"),
        UnsupportedModelError,
        "1_Pooling/config.json: pooling mode 'attention' is not supported; supported: cls, max, mean",
    ),
    "no pooling mode": (with_keys(POOLING, pooling_mode=[]), ExportError, "pooling_mode is empty"),
    "pooling boolean": (
        with_keys(POOLING, pooling_mode_cls_token=1),
        ExportError,
        "pooling_mode_cls_token: expected a",
    ),
    "pooling key": (
        with_keys(POOLING, temperature=2),
        UnsupportedModelError,
        "config.json: unknown field 'temperature'",
    ),
    "dimension": (
        with_keys(POOLING, embedding_dimension=31),
        ExportError,
        "Pooling in '1_Pooling': config.json expects 31 dimensions, but its input has 32",
    ),
    "no dimension": (with_keys(POOLING, embedding_dimension=...), ExportError, "missing field 'embedding_dimension'"),
    "null dimension": (
        with_keys(POOLING, embedding_dimension=None),
        ExportError,
        "embedding_dimension: expected an integer, got null",
    ),
    "transformer key": (with_keys(TRANSFORMER, pad=True), UnsupportedModelError, f"{TRANSFORMER}: unknown field 'pad'"),
    "model_args": (
        with_keys(TRANSFORMER, model_args={"attn_implementation": "sdpa", "rope": 1}),
        UnsupportedModelError,
        "model_args.rope 1 is not supported",
    ),
    "tokenizer_args": (with_keys(TRANSFORMER, tokenizer_args={"a": 1}), UnsupportedModelError, "tokenizer_args.a 1"),
    "config_args": (with_keys(TRANSFORMER, config_args={"a": 1}), UnsupportedModelError, "config_args.a 1"),
    "processing": (with_keys(TRANSFORMER, processing_kwargs={"a": 1}), UnsupportedModelError, "processing_kwargs.a 1"),
    "image": (
        with_keys(TRANSFORMER, modality_config={"image": {"method": "get_image_features"}}),
        UnsupportedModelError,
        "modalities image are not supported; supported: text",
    ),
    "text by another method": (
        with_keys(TRANSFORMER, modality_config={"text": {"method": "get_text_features"}}),
        UnsupportedModelError,
        "get_text_features",
    ),
    "task": (with_keys(TRANSFORMER, transformer_task="fill-mask"), UnsupportedModelError, "transformer_task"),
    "output": (with_keys(TRANSFORMER, module_output_name="x"), UnsupportedModelError, "module_output_name"),
    "max_seq_length 0": (
        with_keys(TRANSFORMER, max_seq_length=0),
        ExportError,
        "max_seq_length: expected a positive integer, got 0",
    ),
    "max_seq_length text": (with_keys(TRANSFORMER, max_seq_length="9"), ExportError, "max_seq_length: expected an int"),
    "normalize input": (
        lambda model: write_json(model / "2_Normalize/config.json", {"module_input_name": "nothing"}),
        ExportError,
        "Normalize in '2_Normalize': expected the input 'nothing', but the modules before it only make",
    ),
    "normalize key": (
        lambda model: write_json(model / "2_Normalize/config.json", {"p": 1}),
        UnsupportedModelError,
        "2_Normalize/config.json: unknown field 'p'",
    ),
    "top key": (with_keys(TOP, scale=2), UnsupportedModelError, f"{TOP}: unknown field 'scale'"),
    "similarity": (with_keys(TOP, similarity_fn_name="maxsim"), UnsupportedModelError, "similarity_fn_name"),
    "model_type": (
        with_keys("config.json", model_type="lama"),
        UnsupportedModelError,
        "config.json: model_type 'lama' is not supported; supported: ",
    ),
    "no model_type": (with_keys("config.json", model_type=...), ExportError, "config.json: missing field 'model_type'"),
    "no config.json": (lambda model: (model / "config.json").unlink(), ExportError, "config.json: missing in model"),
    "no pooling config": (lambda model: (model / POOLING).unlink(), ExportError, "config.json: missing in 1_Pooling"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(model: Path, name: str) -> None:
    damage, kind, message = REFUSED[name]
    read_repo(model)
    damage(model)
    with pytest.raises(kind, match=message):
        export(model, model.parent / "bundle")
    assert [path.name for path in model.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b", "C:\\models", "1_Pool\0ing", "C:pool"])
def test_module_path_outside(model: Path, path: str) -> None:
    edit_modules(model, lambda entries: entries[1].update(path=path))
    with pytest.raises(ExportError, match="is not a plain path inside the model folder"):
        read_repo(model)


@pytest.mark.parametrize("file", ["modules.json", "config.json", TRANSFORMER, TOP, POOLING])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b'{"a": 1, "a": 2}', b'{"a": NaN}', b"\0" * 64, b"[" * 9999]
)
def test_damaged_json(model: Path, file: str, content: bytes) -> None:
    (model / file).write_bytes(content)
    with pytest.raises(ExportError, match=f"^{Path(file).name}: not valid JSON"):
        read_repo(model)


@pytest.mark.parametrize("file", ["config.json", TRANSFORMER, TOP, POOLING])
def test_json_of_another_kind(model: Path, file: str) -> None:
    (model / file).write_bytes(b"[1]")
    with pytest.raises(ExportError, match="expected an object, got list"):
        read_repo(model)


def test_config_that_is_a_folder(model: Path) -> None:
    (model / "config.json").unlink()
    (model / "config.json").mkdir()
    with pytest.raises(ExportError, match=r"^config\.json: not a plain file"):
        read_repo(model)


KEYS = st.one_of(
    st.sampled_from(["type", "path", "idx", "kwargs", "pooling_mode", "embedding_dimension", "module_input_name"]),
    st.sampled_from(["prompts", "default_prompt_name", "truncate_dim", "modality_config", "text", "model_args"]),
    st.sampled_from(["hidden_size", "model_type", "max_seq_length"]),
)
TEXTS = st.one_of(KEYS, st.text(st.characters()), st.sampled_from(["bert", "mean", "..", "x" * 300, "é" * 300]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("fuzz") / "model", prompts={"query": "q: "})
    write_json(folder / "2_Normalize/config.json", {"module_input_name": "sentence_embedding"})
    return folder


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("file", ["modules.json", "config.json", TRANSFORMER, TOP, POOLING, "2_Normalize/config.json"])
def test_any_json_gives_an_error_of_ours_or_a_spec(untouched: Path, file: str, data: st.DataObject) -> None:
    """Whole files of any JSON, and files with one value replaced by any JSON."""
    original = (untouched / file).read_bytes()
    content = json.loads(original)
    if data.draw(st.booleans()):
        target = data.draw(st.sampled_from(content)) if isinstance(content, list) else content
        target[data.draw(st.one_of(st.sampled_from(sorted(target)), TEXTS))] = data.draw(VALUES)
    else:
        content = data.draw(VALUES)
    try:
        (untouched / file).write_text(json.dumps(content))
        with suppress(EmbedrtError):
            assert isinstance(read_repo(untouched), ModelSpec)
    finally:
        (untouched / file).write_bytes(original)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(content=st.binary(max_size=200))
def test_any_bytes_give_an_error_of_ours(untouched: Path, content: bytes) -> None:
    original = (untouched / "config.json").read_bytes()
    try:
        (untouched / "config.json").write_bytes(content)
        with pytest.raises(ExportError):
            read_repo(untouched)
    finally:
        (untouched / "config.json").write_bytes(original)


def test_a_copy_of_a_folder_with_links_reads_alike(model: Path, tmp_path: Path) -> None:
    """The hub's cache holds links to blobs."""
    linked = tmp_path / "linked"
    shutil.copytree(model, tmp_path / "blobs")
    for path in sorted((tmp_path / "blobs").rglob("*")):
        place = linked / path.relative_to(tmp_path / "blobs")
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            place.symlink_to(path)
    assert transformer(linked).config == transformer(model).config
    assert [part.settings for part in chain(linked)[1:]] == [part.settings for part in chain(model)[1:]]


@pytest.mark.parametrize("path", ["1_Pool*ing", "\ud800", "x" * 300, "é" * 150, 'a"b', "a\nb"])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_module_path_that_no_bundle_can_hold(model: Path, path: str, position: int) -> None:
    edit_modules(model, lambda entries: entries[position].update(path=path))
    with pytest.raises(ExportError, match=r"^modules\.json.*: (path .* is not a plain path|expected valid Unicode)"):
        read_repo(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"default_prompt_name": "passage"}, "default_prompt_name 'passage' is not among the prompts: query"),
        ({"prompts": {}, "default_prompt_name": "query"}, "default_prompt_name 'query' is not among the prompts: none"),
        ({"truncate_dim": 33}, "truncate_dim 33 is not within 1 to 32"),
        ({"truncate_dim": 0}, "truncate_dim 0 is not within 1 to 32"),
        ({"truncate_dim": -8}, "truncate_dim -8 is not within 1 to 32"),
    ],
)
def test_defaults_that_no_bundle_can_have(model: Path, changes: dict[str, Any], message: str) -> None:
    edit_json(model / TOP, **changes)
    with pytest.raises(ExportError, match=f"^{TOP}: {message}$"):
        export(model, model.parent / "bundle")


def test_truncate_dim_may_use_all_of_a_concatenation(model: Path) -> None:
    edit_json(model / POOLING, pooling_mode=["cls", "mean"])
    edit_json(model / TOP, truncate_dim=64)
    assert Embedder(export(model, model.parent / "bundle")).encode("one").shape == (64,)
