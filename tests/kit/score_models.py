"""Small seeded models that score pairs, in every form in which repos have activation, prompts and chat template."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from tests.kit.family_models import draw
from tests.kit.models import write_json, write_tokenizer
from tests.kit.scoring_heads import CHAINS, REFERENCE, config_of, head_cases, write_chain_repo, write_head_repo

TORCH = "torch.nn.modules"
FLAT = """{%- set instruction = messages | selectattr("role", "eq", "system") | map(attribute="content") | first -%}
{%- set instruction = instruction | default("the cat is one token") -%}
two {{ instruction }} three
<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first | trim }}
<Document>: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }} and
{% if add_generation_prompt %}to the {% endif %}bank !
"""
STRUCTURED = """{% for message in messages %}{{ bos_token }}{{ message.role }} {{ message.content[0].text }}
{% endfor %}boat ?"""
WITHOUT_PROMPT = """{{ (messages | selectattr("role", "eq", "query") | first).content }} is {{ \
(messages | selectattr("role", "eq", "document") | first).content }} for one"""


@cache
def _shapes() -> dict[str, dict[str, list[int]]]:
    shapes: dict[str, dict[str, list[int]]] = json.loads((REFERENCE / "heads.json").read_bytes())["tensors"]
    return shapes


def _edit(path: Path, **changes: Any) -> None:
    write_json(path, {**json.loads(path.read_bytes()), **changes})


def _head(folder: Path, name: str, template: str | None = None, **config: Any) -> Path:
    """A plain folder with a classification head."""
    folder.mkdir(parents=True, exist_ok=True)
    write_head_repo(folder, head_cases()[name], _shapes()[name], plain=True)
    _edit(folder / "config.json", **config)
    if template is not None:
        _edit(folder / "tokenizer_config.json", chat_template=template)
    return folder


def _chain(folder: Path, name: str, **top: Any) -> Path:
    """A folder with modules.json."""
    folder.mkdir(parents=True, exist_ok=True)
    chain = CHAINS[name]
    write_chain_repo(folder, chain, _shapes()[chain.base])
    _edit(folder / "config_sentence_transformers.json", **top)
    return folder


def _causal(
    folder: Path,
    template: str | None = None,
    score: dict[str, Any] | None = None,
    *,
    family: str = "qwen3",
    base: str = "one label",
    variables: dict[str, Any] | None = None,
    top: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """A causal language model, whose tokens "yes" and "no" make the score.

    Args:
        folder: The folder to write.
        template: The chat template.
        score: The config of a LogitScore module; None is a folder without modules.json.
        family: The model type.
        base: The name of the case of the same family with a classification head.
        variables: Variables of the chat template.
        top: Keys of config_sentence_transformers.json.
        **config: Keys of config.json.
    """
    name = f"{family}: {base}"
    case = head_cases()[name]
    write_tokenizer(folder, "bert")
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text.replace('"short"', '"yes"').replace('"long"', '"no"'), encoding="utf-8")
    _edit(
        folder / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=case.max_length,
        bos_token="[CLS]",
        **({} if template is None else {"chat_template": template}),
    )
    architectures = [f"{family.capitalize()}ForCausalLM"]
    settings = {**config_of(replace(case, labels=2)), "architectures": architectures, **config}
    write_json(folder / "config.json", settings)
    shapes = {tensor: shape for tensor, shape in _shapes()[name].items() if tensor != "score.weight"}
    if not settings.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    tensors = {tensor: draw(tensor, shape, 0.3) for tensor, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if score is not None:
        _write_modules(folder, score, variables or {}, top or {}, with_template=template is not None)
    return folder


def _write_modules(
    folder: Path, score: dict[str, Any], variables: dict[str, Any], top: dict[str, Any], *, with_template: bool
) -> None:
    forward = {"method": "forward", "method_output_name": "logits"}
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "text-generation",
            "modality_config": {
                "text": forward,
                **({"message": {**forward, "format": "flat"}} if with_template else {}),
            },
            "module_output_name": "causal_logits",
            **({"processing_kwargs": {"chat_template": variables}} if variables else {}),
        },
    )
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
            for i, (path, kind) in enumerate(
                {
                    "": "base.modules.transformer.Transformer",
                    "1_LogitScore": "cross_encoder.modules.logit_score.LogitScore",
                }.items()
            )
        ],
    )
    write_json(folder / "1_LogitScore" / "config.json", score)
    write_json(
        folder / "config_sentence_transformers.json",
        {"model_type": "CrossEncoder", "prompts": {}, "default_prompt_name": None, **top},
    )


_PROMPTS: dict[str, Any] = {"prompts": {"query": "the cat "}, "activation_fn": f"{TORCH}.linear.Identity"}
MODELS: dict[str, Callable[[Path], Path]] = {
    "sigmoid": partial(_head, name="bert: one label"),
    "identity": partial(
        _head, name="roberta: one label", sentence_transformers={"activation_fn": f"{TORCH}.linear.Identity"}
    ),
    "tanh": partial(
        _head, name="distilbert: one label", sbert_ce_default_activation_function=f"{TORCH}.activation.Tanh"
    ),
    "three": partial(_head, name="bert: three labels"),
    "softmax": partial(_chain, name="mean, three labels", activation_fn=f"{TORCH}.activation.Softmax"),
    "prompts": partial(_chain, name="saved head", **_PROMPTS),
    "default-prompt": partial(_chain, name="dense, norm, dense", **_PROMPTS, default_prompt_name="query"),
    "joined": partial(_head, name="qwen3: one label"),
    "classified-chat": partial(_head, name="qwen3: one label", template=FLAT),
    "yes-no": partial(_causal, template=FLAT),
    "tied": partial(_causal, template=STRUCTURED, tie_word_embeddings=True),
    "without-template": partial(_causal, family="llama", base="no padding id"),
    "logit": partial(
        _causal,
        template=FLAT,
        score={"true_token_id": 40, "false_token_id": None, "module_input_name": "causal_logits"},
        variables={"add_generation_prompt": True},
        top=_PROMPTS,
    ),
    "no-prompt": partial(
        _causal,
        template=WITHOUT_PROMPT,
        score={"true_token_id": 41, "false_token_id": 44, "module_input_name": "causal_logits"},
    ),
}
"""By name, a function that writes the model into a folder."""
CHAT = {"classified-chat", "yes-no", "tied", "logit", "no-prompt"}
"""Models that read pairs through a chat template."""
