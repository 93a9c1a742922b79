"""Candidates of `embedrt tune` and the choice among them: pure functions, without engine or clock.

The search is successive halving: in every round all candidates encode the same texts, and the slower half is dropped,
so that the remaining candidates are measured over more texts.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from embedrt.engine import Device
from embedrt.tune.result import CLEARLY

FEWEST_TEXTS, MOST_TEXTS = 16, 1024
"""The minimum and maximum number of texts that a candidate is timed with."""

# Token budgets as multiples of the device's own.
_BUDGETS = (0.25, 0.5, 1, 2)
# A text has some 50 tokens: so few as here make a dozen batches.
_TOKENS_PER_TEXT = 4
# The speedup that a larger token budget must have to be worth its memory.
_WORTH_MEMORY = 1.03
# Skip URLs and other very long words.
_LONGEST_WORD = 20


@dataclass(frozen=True)
class Candidate:
    """A setting to time: dtype, device, number of threads and token budget."""

    dtype: str
    device: str
    threads: int
    max_tokens: int

    @property
    def engine(self) -> tuple[str, str, int]:
        """The attributes that need separate sessions: dtype, device and threads."""
        return self.dtype, self.device, self.threads

    def __str__(self) -> str:
        return f"{self.dtype} on {self.device}, {self.threads} threads, {self.max_tokens} tokens"


def candidates(dtype: str, device: Device, cores: int) -> list[Candidate]:
    """The candidates of a dtype on a device: all cores, and on a parallel device also half and a quarter of them."""
    threads = sorted({cores, max(1, cores // 2), max(1, cores // 4)}) if device.parallel else [cores]
    budgets = device.token_budgets or sorted({max(1, int(part * device.token_budget)) for part in _BUDGETS})
    return [Candidate(dtype, device.name, count, budget) for count in reversed(threads) for budget in budgets]


def best(rates: Mapping[Candidate, float]) -> Candidate:
    """Choose among candidates that differ in threads and token budget, given their throughput in texts/s.

    The choice has the most threads, unless fewer are clearly faster, and the smallest token budget that is not clearly
    slower.
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
    """The better half of the candidates, rounded up, best first."""
    left, order = dict(rates), list[Candidate]()
    while 2 * len(order) < len(rates):
        order.append(best(left))
        del left[order[-1]]
    return order


def rounds(count: int) -> int:
    """The number of rounds for `count` candidates, up to one that compares at most two."""
    number = 1
    while count > 2:
        count, number = ceil(count / 2), number + 1
    return number


def texts_for(seconds: float, visits: int, seconds_per_text: float, token_budget: int = 1) -> int:
    """The number of texts per visit, for a round of so many seconds and visits.

    Args:
        seconds: The time for the round.
        visits: The visits of all candidates.
        seconds_per_text: A rough time.
        token_budget: The largest one that is compared; the texts must be able to fill several such batches.
    """
    most = max(MOST_TEXTS, token_budget // _TOKENS_PER_TEXT)
    return max(FEWEST_TEXTS, int(min(most, seconds / visits / seconds_per_text)))


def mixture(texts: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Generate texts of mixed lengths from the words of others: mostly a few dozen words, some one, some hundreds."""
    words = [word for text in texts for word in text.split() if len(word) <= _LONGEST_WORD] or ["word"]
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    lengths = [min(400, max(1, round(draw.lognormvariate(3.4, 1.0)))) for _ in range(count)]
    return [" ".join(draw.choices(words, k=length)) for length in lengths]
