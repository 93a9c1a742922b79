"""Chat templates: resolved at export as transformers renders them, or refused by name; and pairs that they render."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import CrossEncoder, ExportError, UnsupportedModelError
from embedrt.bundle.manifest import Piece, read_manifest
from embedrt.inputs.templates import TemplateReading, render
from embedrt.inputs.text import TextTokenizer
from embedrt_export import export
from embedrt_export.routes.chat_template import ChatTemplate, form_of, read_chat_template, resolve
from tests.kit.edits import edit_json
from tests.kit.models import make_model, write_json
from tests.kit.score_models import FLAT, MODELS, STRUCTURED, WITHOUT_PROMPT

ROLES = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def resolved(text: str, **variables: Any) -> Any:
    return resolve(ChatTemplate(text, variables, form_of(text, "qwen3")))


def test_pieces() -> None:
    template = resolved(ROLES)
    query, document = Piece(place="query"), Piece(place="document")
    assert template.plain == (Piece("query: "), query, Piece("\ndocument: "), document, Piece("\n"))
    assert template.prompted is not None
    assert template.prompted[:2] == (Piece("system: "), Piece(place="prompt"))
    assert render(template.prompted, "a", "b", "c") == "system: c\nquery: a\ndocument: b\n"


def test_white_space_that_a_template_removes() -> None:
    template = resolved("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}")
    assert [piece.strip for piece in template.plain if piece.place] == [True, True]
    assert render(template.plain, " a ", "\nb", "") == "[a][b]"


def test_forms_of_messages() -> None:
    assert [form_of(text, "qwen3") for text in (FLAT, STRUCTURED, WITHOUT_PROMPT)] == ["flat", "structured", "flat"]
    assert form_of(STRUCTURED, "gpt_oss") == "flat"
    assert render(resolved(STRUCTURED, bos_token="<s>").plain, "a", "b", "") == "<s>query a\n<s>document b\nboat ?"


def test_a_template_that_fails_for_prompts() -> None:
    guard = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    assert resolved(guard + ROLES).prompted is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "role 'query' does not reach"),
        ("{{ messages[0].content }}", "role 'document' does not reach"),
        (ROLES.replace("m.content", "m.content | upper"), "more than join fixed texts"),
        (ROLES.replace("m.content", "m.content | replace('b', 'c')"), "more than join fixed texts"),
        (ROLES + "{% if messages[0].content | length > 100 %}long{% endif %}", "more than join fixed texts"),
        ("{{ raise_exception('only users') }}", "it fails for a pair: TemplateError: only users"),
        ("{{ messages.x.y }}", "it fails for a pair: UndefinedError"),
        ("{{ ''.__class__.__mro__ }}", "it fails for a pair: SecurityError"),
        ("{% for i in range(99999) %}xxxxxxxx{% endfor %}", "expected at most 65536 characters"),
        ("{{ 'x' * 9999999999 }}", "it fails for a pair: SecurityError"),
        ("{{ 9 ** 9999999 }}", "it fails for a pair: SecurityError"),
        ("{{ 'x'.ljust(9999999999) }}", "it fails for a pair: SecurityError"),
    ],
)
def test_templates_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        resolved(text)


def test_templates_that_are_damaged(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="chat template: "):
        resolved("{% for %}")
    with pytest.raises(ExportError, match="No filter named 'center'"):  # it would fill the memory
        resolved("{{ 1 | center(9999999999) }}")
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ExportError, match=r"chat_template\.jinja: not UTF-8"):
        read_chat_template(tmp_path)


def test_places_of_a_template(tmp_path: Path) -> None:
    assert read_chat_template(tmp_path) is None
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": "old"})
    assert read_chat_template(tmp_path) == "old"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "usual"}]
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": named})
    assert read_chat_template(tmp_path) == "usual"
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": named[:1]})
    with pytest.raises(UnsupportedModelError, match="none is named 'default'"):
        read_chat_template(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("new")
    assert read_chat_template(tmp_path) == "new"


def test_the_end_of_the_template_stays(tmp_path: Path) -> None:
    """A pair that is too long keeps the tokens that the model reads its answer off."""
    bundle = export(MODELS["yes-no"](tmp_path / "model"), tmp_path / "bundle", task="score", reference="onnx")
    template = read_manifest(bundle).routes["default"].tokenization.template
    assert template is not None
    tokenizer = TextTokenizer(bundle / "tokenizer.json", max_seq_length=44, with_type_ids=True)
    reading = TemplateReading(template)
    assert reading.of(tokenizer) is reading.of(tokenizer)
    pairs = reading.of(tokenizer)
    parts = [pairs.tokens(pairs.encode(part)) for part in pairs.portions([("a cat", "dog"), ("a cat", "dog " * 99)])]
    tokens = parts[0]
    assert tokens.truncated == [1]
    assert tokens.lengths.tolist()[1] == 44
    assert tokens.type_ids is not None
    assert not tokens.type_ids.any()
    end = tokenizer.without_special_tokens()(["and\nbank !"]).ids
    for row in range(2):
        assert tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]][-len(end) :].tolist() == end.tolist()


def test_a_model_that_reads_messages_has_a_template(tmp_path: Path) -> None:
    source = MODELS["logit"](tmp_path / "model")
    config = json.loads((source / "tokenizer_config.json").read_bytes())
    del config["chat_template"]
    write_json(source / "tokenizer_config.json", config)
    with pytest.raises(UnsupportedModelError, match="the model reads messages, but its tokenizer has no chat template"):
        export(source, tmp_path / "bundle", reference="onnx")


def test_a_vocabulary_without_yes_and_no(tmp_path: Path) -> None:
    source = MODELS["without-template"](tmp_path / "model")
    text = (source / "tokenizer.json").read_text(encoding="utf-8")
    (source / "tokenizer.json").write_text(text.replace('"yes"', '"yea"'), encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match="expected the tokens 'yes' and 'no'"):
        export(source, tmp_path / "bundle", task="score", reference="onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"true_token_id": 999}, "expected ids below 139, the rows of the head, got 999"),
        ({"true_token_id": -1}, "expected ids below 139"),
        ({"true_token_id": None}, "true_token_id is missing"),
        ({"module_input_name": "scores"}, "module_input_name: expected 'causal_logits', got 'scores'"),
        ({"more": 1}, "more"),
    ],
)
def test_settings_of_logit_score(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    source = MODELS["no-prompt"](tmp_path / "model")
    edit_json(source / "1_LogitScore" / "config.json", **changes)
    with pytest.raises((ExportError, UnsupportedModelError), match=message):
        export(source, tmp_path / "bundle", reference="onnx")


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("config_sentence_transformers.json", "torch.nn.modules.activation.ReLU", "ReLU"),
        ("config_sentence_transformers.json", "my_package.Activation", "Tanh"),
        ("config.json", "torch.nn.SiLU", "Tanh"),
    ],
)
def test_places_of_the_activation(tmp_path: Path, place: str, value: str, expected: str) -> None:
    source = MODELS["tanh"](tmp_path / "model")
    if place == "config.json":  # the newer key of the two
        edit_json(source / place, sentence_transformers={"activation_fn": value})
        expected = "SiLU"
    else:
        write_json(source / place, {"model_type": "CrossEncoder", "activation_fn": value})
    with CrossEncoder(export(source, tmp_path / "bundle", reference="onnx")) as model:
        assert model.manifest.scoring is not None
        assert model.manifest.scoring.activation == expected


def test_an_activation_that_is_not_supported(tmp_path: Path) -> None:
    source = MODELS["tanh"](tmp_path / "model")
    edit_json(source / "config.json", sbert_ce_default_activation_function="torch.nn.modules.activation.Mish")
    with pytest.raises(UnsupportedModelError, match=r"sbert_ce_default_activation_function: 'torch.*Mish' is not"):
        export(source, tmp_path / "bundle", reference="onnx")


def test_embedding_models_take_no_variables(tmp_path: Path) -> None:
    source = make_model(tmp_path / "model")
    edit_json(source / "sentence_bert_config.json", processing_kwargs={"chat_template": {"a": 1}})
    with pytest.raises(UnsupportedModelError, match=r"processing_kwargs\.chat_template is not supported"):
        export(source, tmp_path / "bundle", reference="onnx")


def test_scores_of_several_batches(tmp_path: Path) -> None:
    bundle = export(MODELS["tied"](tmp_path / "model"), tmp_path / "bundle", task="score", reference="onnx")
    pairs = [("cat " * (i % 5), "dog " * i) for i in range(40)]
    with CrossEncoder(bundle, max_tokens=64) as model:
        np.testing.assert_allclose(model.predict(pairs), [model.predict(pair) for pair in pairs], atol=2e-6)
