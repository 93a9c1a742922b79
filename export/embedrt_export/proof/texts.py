"""Fixed texts and pairs of the parity report: lengths up to the limit and beyond, many scripts, and unusual input."""

from embedrt.types import Task
from embedrt.verify.parity import Item

_SENTENCES = (
    "",
    " ",
    "a",
    "\t\n  leading and trailing white space \r\n",
    "A quick brown fox jumps over the lazy dog.",
    "IS THIS THE SAME AS lower case? Café, naïve, Ångström, Straße",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Le cœur a ses raisons que la raison ne connaît point.",
    "Чем дальше в лес, тем больше дров.",
    "Η γλώσσα είναι το σπίτι του ανθρώπου.",
    "العلم في الصغر كالنقش على الحجر",
    "אין חכם כבעל ניסיון",
    "जहाँ चाह वहाँ राह",
    "น้ำขึ้นให้รีบตัก",
    "千里之行，始于足下。",
    "石の上にも三年。カタカナとひらがな",
    "시작이 반이다",
    "Có công mài sắt, có ngày nên kim",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 emoji 🇫🇷 joined and alone",
    "e\u0301 is not é; \u200bzero\u200dwidth\ufeff; \u202eright to left\u202c",
    "nul \x00 bell \x07 escape \x1b[31m replacement \ufffd unassigned \u0378",
    "[CLS] special [SEP] tokens [MASK] in <s> text </s> [PAD] [UNK]",
    "3.14159 + 2,718 = 5.86; 1e-9 0x7F 2026-11-21T12:00:00Z",
    "https://example.org/a/b?c=d&e=%20f#g user@example.org C:\\Windows\\System32",
    "def f(x):\n    return {k: v for k, v in x.items() if v is not None}  # code",
    "Supercalifragilisticexpialidocious" * 4,
    "!?.,;:-_()[]{}<>|/\\@#$%^&*~`'\"",
    "The bank raised its interest rates again this quarter.",
    "We sat on the bank of the river and watched the boats.",
    "How do I reset my password?",
    "To change your password, open the settings and choose Security.",
)
_QUERIES = (
    "How do I reset my password?",
    "bank of the river",
    "Wer sagt, dass das Wetter schön wird?",
    "一期一会",
    "x",
)
# Memory of attention grows with the square of the length, and some models accept 32768 tokens.
_LONGEST = 1024
_WORDS = (
    "the model turns every text into one vector and the vector of a text must not depend on the other texts that "
    "happen to be computed with it because search would then find different things on different days"
).split()


def parity_items(task: Task, max_seq_length: int | None) -> list[Item]:
    """List the parity texts of a model, or the pairs of one that scores pairs; see `parity_texts`."""
    return [*(parity_pairs(max_seq_length) if task == "score" else parity_texts(max_seq_length))]


def parity_texts(max_seq_length: int | None) -> list[str]:
    """List the texts for a model that truncates at `max_seq_length` tokens; None is no limit.

    Word counts double from 1 up to the limit, plus counts around and beyond it. Most words are one token. For models
    that accept more than 512 tokens, one text has up to 1024.
    """
    return [*_SENTENCES, *map(_words, _counts(max_seq_length))]


def parity_pairs(max_seq_length: int | None) -> list[tuple[str, str]]:
    """List the pairs for a model that truncates at `max_seq_length` tokens; None is no limit.

    Every sentence is a document, and some are queries too. Documents have the word counts of `parity_texts`, after a
    short query and after one as long as they are; and long queries are before a short document.
    """
    documents = [(_QUERIES[i % len(_QUERIES)], sentence) for i, sentence in enumerate(_SENTENCES)]
    queries = [(sentence, _SENTENCES[(i + 4) % len(_SENTENCES)]) for i, sentence in enumerate(_SENTENCES) if i % 4 == 2]
    counts = _counts(max_seq_length)
    long = [(_words(3), _words(count)) for count in counts]
    both = [(_words(count), _words(count)) for count in counts[1::2]]
    long_queries = [(_words(count), _words(2)) for count in counts[-4::2]]
    return [*documents, *queries, ("", _QUERIES[0]), *long, *both, *long_queries]


def _counts(max_seq_length: int | None) -> list[int]:
    """Word counts that double from 1 up to the limit, and some around and beyond it."""
    reach = min(max_seq_length or _LONGEST, _LONGEST)
    limit = min(reach, 512)
    counts = {2**i for i in range(10) if 2**i < limit} | {limit - 3, limit - 2, limit - 1, limit, limit + limit // 4}
    if reach > limit:
        counts.add(reach)
    return sorted(count for count in counts if count > 0)


def _words(count: int) -> str:
    return " ".join(_WORDS[i % len(_WORDS)] for i in range(count))
