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
from tests.kit.tokenizer_cases import CASES, GOLDEN, PAIRS, TEXTS, VOCABULARIES, write_case  # noqa: E402

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
    cases, pairs, types = {}, {}, {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            write_case(Path(folder), name)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            found = [json.dumps(tokenizer(text)["input_ids"], separators=(",", ":")) for text in TEXTS]
            found_pairs = tokenizer(*map(list, zip(*PAIRS, strict=True)))  # alone, an empty second text is none
            of_pairs = [json.dumps(ids, separators=(",", ":")) for ids in found_pairs["input_ids"]]
            types[name] = found_pairs.get("token_type_ids")
        cases[name] = [pool.setdefault(ids, len(pool)) for ids in found]
        pairs[name] = [pool.setdefault(ids, len(pool)) for ids in of_pairs]
    made_with = {package: version(package) for package in ("transformers", "tokenizers", "sentencepiece")}
    content = {
        "made_with": made_with,
        "texts": TEXTS,
        "cases": cases,
        "pairs": pairs,
        "types": types,
        "ids": [json.loads(ids) for ids in pool],
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    GOLDEN.write_text(text.replace("],", "],\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    {"vocabularies": make_vocabularies, "ids": make_ids}[sys.argv[1]]()
