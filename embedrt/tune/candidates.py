"""What `embedrt tune` tries and which of it wins: pure functions, no engine and no clock.

The search is successive halving: in every round all candidates do the same work, and the slower half is left out, so
that the few that are left are measured over more texts.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from embedrt.engine import Device
from embedrt.tune.result import CLEARLY

FEWEST_TEXTS, MOST_TEXTS = 16, 1024
"""What a candidate is timed with."""

# Token budgets, as parts of the one that a device has.
_BUDGETS = (0.25, 0.5, 1, 2)
# A larger budget takes more memory, and has to be faster by this much.
_WORTH_MEMORY = 1.03
# Longer words are no words.
_LONGEST_WORD = 20


@dataclass(frozen=True)
class Candidate:
    """One way to run the model."""

    dtype: str
    device: str
    threads: int
    max_tokens: int

    @property
    def engine(self) -> tuple[str, str, int]:
        """Those of its attributes that need sessions of their own."""
        return self.dtype, self.device, self.threads

    def __str__(self) -> str:
        return f"{self.dtype} on {self.device}, {self.threads} threads, {self.max_tokens} tokens"


def candidates(dtype: str, device: Device, processors: int) -> list[Candidate]:
    """What is worth a try: all processors, and where threads run batches of their own a half and a quarter of them."""
    threads = (
        sorted({processors, max(1, processors // 2), max(1, processors // 4)}) if device.parallel else [processors]
    )
    budgets = sorted({max(1, int(part * device.token_budget)) for part in _BUDGETS})
    return [Candidate(dtype, device.name, count, budget) for count in reversed(threads) for budget in budgets]


def best(rates: Mapping[Candidate, float]) -> Candidate:
    """The one to take of those that differ in threads and token budget, given their texts per second.

    The most threads, unless fewer are clearly faster; and the smallest budget that is not slower by more than its
    memory is worth.
    """
    fastest: dict[int, float] = {}
    for candidate, rate in rates.items():
        fastest[candidate.threads] = max(rate, fastest.get(candidate.threads, 0.0))
    threads, most = max(fastest, key=lambda count: fastest[count]), max(fastest)
    if fastest[threads] < CLEARLY * fastest[most]:
        threads = most
    enough = fastest[threads] / _WORTH_MEMORY
    return min(
        (candidate for candidate, rate in rates.items() if candidate.threads == threads and rate >= enough),
        key=lambda candidate: candidate.max_tokens,
    )


def survivors(rates: Mapping[Candidate, float]) -> list[Candidate]:
    """The better half, the best first; of an odd number the larger one."""
    left, order = dict(rates), list[Candidate]()
    while 2 * len(order) < len(rates):
        order.append(best(left))
        del left[order[-1]]
    return order


def rounds(count: int) -> int:
    """How many rounds there are until at most two of so many candidates are left and were compared."""
    number = 1
    while count > 2:
        count, number = ceil(count / 2), number + 1
    return number


def texts_for(seconds: float, visits: int, seconds_per_text: float) -> int:
    """How many texts each visit of a round takes, if the round has so many seconds."""
    return max(FEWEST_TEXTS, int(min(MOST_TEXTS, seconds / visits / seconds_per_text)))


def mixture(texts: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Texts of mixed lengths made of the words of others: most of a few dozen words, some of one, some of hundreds."""
    words = [word for text in texts for word in text.split() if len(word) <= _LONGEST_WORD] or ["word"]
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    lengths = [min(400, max(1, round(draw.lognormvariate(3.4, 1.0)))) for _ in range(count)]
    return [" ".join(draw.choices(words, k=length)) for length in lengths]
