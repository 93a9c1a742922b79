"""Makes small vocabularies and the ids that transformers gives with them, for the tests that run without it.

    python tests/reference/make_tokenizers.py vocabularies   # needs sentencepiece; new files change all ids
    python tests/reference/make_tokenizers.py ids

The ids are those of `AutoTokenizer` for every case of tests/tokenizer_cases.py.
"""

import contextlib
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from embedrt_export.proof.texts import parity_texts  # noqa: E402
from tests.kit.tokenizer_cases import CASES, GOLDEN, GOLDEN_PAIRS, LIMIT, PAIRS, TEXTS, VOCABULARIES, write_case  # noqa: E402

RULES = "FB01\t66 69\nFF21\t41\n2160\t49\nA0\t20\n3000\t20\n9\t20\nA\t20\nD\t20\nAD\t\n2126\t3A9\n"
SENTENCEPIECE: dict[str, dict[str, Any]] = {
    "fairseq": {"model_type": "unigram", "user_defined_symbols": ["<user>"]},
    "albert": {
        "model_type": "unigram",
        "pad_id": 0,
        "unk_id": 1,
        "bos_id": -1,
        "eos_id": -1,
        "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
        "user_defined_symbols": ["(", "<user>"],
    },
    "t5": {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "bpe": {"model_type": "bpe", "byte_fallback": True, "user_defined_symbols": ["<user>", "  "]},
}


def make_vocabularies() -> None:
    import sentencepiece

    texts = [text.replace("\x00", "") for text in parity_texts(64)]
    # The files keep the names that they were made by, so these are relative.
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        Path("rules.tsv").write_text(RULES)
        for name, settings in SENTENCEPIECE.items():
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts * 4),
                model_prefix=name,
                vocab_size=400 + 256 * bool(settings.get("byte_fallback")),
                character_coverage=0.98,
                hard_vocab_limit=False,
                normalization_rule_tsv="rules.tsv",
                minloglevel=2,
                **settings,
            )
            (VOCABULARIES / f"{name}.model").write_bytes(Path(f"{name}.model").read_bytes())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer.model.save(str(VOCABULARIES))


def make_ids() -> None:
    from transformers import AutoTokenizer

    pool: dict[str, int] = {}  # many cases agree on a text, so ids are stored once
    pair_pool: dict[str, int] = {}
    cases, pairs = {}, {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            write_case(Path(folder), name)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            found = [json.dumps(tokenizer(text)["input_ids"], separators=(",", ":")) for text in TEXTS]
            options: list[dict[str, Any]] = [{}, {"truncation": "longest_first", "max_length": LIMIT}]
            read = [_of_batch(tokenizer([pair], **more)) for pair in PAIRS for more in options]
            pairs[name] = [pair_pool.setdefault(_pair_text(one), len(pair_pool)) for one in read]
        cases[name] = [pool.setdefault(ids, len(pool)) for ids in found]
    both = {"pairs": PAIRS, "limit": LIMIT, "cases": pairs, "read": [json.loads(one) for one in pair_pool]}
    GOLDEN_PAIRS.write_text(json.dumps(both, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    made_with = {package: version(package) for package in ("transformers", "tokenizers", "sentencepiece")}
    content = {"made_with": made_with, "texts": TEXTS, "cases": cases, "ids": [json.loads(ids) for ids in pool]}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    GOLDEN.write_text(text.replace("],", "],\n") + "\n", encoding="utf-8")


def _of_batch(read: Any) -> dict[str, Any]:
    """What a tokenizer returns for a batch of one; an empty second text is one only there."""
    return {name: rows[0] for name, rows in read.items()}


def _pair_text(read: dict[str, Any]) -> str:
    """The ids of a pair, and its token types if there are any but 0."""
    types = read.get("token_type_ids", [])
    return json.dumps([read["input_ids"], types if any(types) else []], separators=(",", ":"))


if __name__ == "__main__":
    {"vocabularies": make_vocabularies, "ids": make_ids}[sys.argv[1]]()
