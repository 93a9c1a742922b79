"""`Queue`: batches of many requests at once, for a server. A few texts overtake many, by one batch at most.

Texts of all requests wait in one pool, sorted by length, so that a batch has neighbors with little padding whoever
asked for them. The oldest text decides which batch comes next. Nothing waits for more texts to come: an idle thread
takes what is there.
"""

import logging
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Condition, RLock, Thread
from time import monotonic
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedrt.errors import EmbedrtError, InferenceError
from embedrt.inputs.text import Tokens
from embedrt.run.request import Request, Result
from embedrt.run.runner import Rows, Runner, Work, require_untruncated

logger = logging.getLogger("embedrt")

Lane = Literal["query", "bulk"]
LANES: tuple[Lane, ...] = ("query", "bulk")

# A request of so many texts, with so many characters for each token of a batch, counts as a query; on a GPU, whose
# batches are large, with so many in all, as its texts are tokenized in the caller's thread.
_QUERY_TEXTS, _QUERY_CHARACTERS, _MOST_QUERY_CHARACTERS = 8, 4, 8192
# Texts that are tokenized at a time, and the batches of a thread whose tokens may wait in the pool.
_PORTION, _AHEAD = 256, 64
# While queries come, batches of the other lane are half as large, so that a query waits half as long for one that runs:
# until so many have passed without a query.
_SMALLER, _BATCHES_AFTER_QUERY = 2, 64
# A batch counts as alone only if no two batches have overlapped for this long.
_QUIET_SECONDS = 0.05
# The rate of the last batches counts so much in the average.
_NEWEST = 0.05
_MOST_RETRY_SECONDS = 120


class QueueFull(EmbedrtError):  # noqa: N818 - the condition's usual name
    """Too many requests wait already.

    Args:
        message: The message.
        retry_after: The seconds after which there should be room again.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueClosed(EmbedrtError):  # noqa: N818 - the condition's usual name
    """The server is about to end, and takes no more requests."""


@dataclass(frozen=True)
class Outcome:
    """The end of a job.

    Attributes:
        result: The arrays and the truncated texts, if there was no failure.
        failure: The failure, or None.
        lengths: The tokens of every item, after truncation, int64 `[items]`.
        tokenize_seconds: Seconds of tokenization.
        queue_seconds: Seconds from the arrival to the start of the first batch.
        engine_seconds: Seconds from the start of the first batch to the end of the last.
    """

    result: Result | None
    failure: BaseException | None
    lengths: NDArray[np.int64]
    tokenize_seconds: float = 0.0
    queue_seconds: float = 0.0
    engine_seconds: float = 0.0

    def get(self) -> Result:
        """The result; a failure is raised."""
        if self.result is None:
            raise InferenceError("the run ended without a result") if self.failure is None else self.failure
        return self.result


@dataclass(frozen=True)
class BatchRecord:
    """One batch, for metrics.

    Attributes:
        model: The model's name.
        lane: The lane of its requests.
        requests: The number of requests in it.
        texts: The number of texts.
        tokens: Their tokens.
        computed: The tokens that were computed, padding included.
        budget: The token budget.
        seconds: The seconds that it took.
        queue_seconds: The seconds that its oldest text waited.
        failed: True if it failed.
    """

    model: str
    lane: Lane
    requests: int
    texts: int
    tokens: int
    computed: int
    budget: int
    seconds: float
    queue_seconds: float
    failed: bool


@dataclass(eq=False)
class Job:
    """One request in the queue.

    Attributes:
        runner: The runner of its model.
        items: The items.
        request: The options.
        lane: The lane.
        done: Called once with the outcome, by one of the queue's threads, unless the job is canceled.
        work: The state of the run.
        left: Items without a result.
        arrived: When it came.
        started: When its first batch started.
        ended: True once it has an outcome, or is canceled.
        lengths: The tokens of every item.
        tokenize_seconds: Seconds of tokenization so far.
        units: The tokenized portions that wait.
        portions: The portions that are not tokenized yet.
    """

    runner: Runner
    items: Sequence[Any] | Tokens
    request: Request
    lane: Lane
    done: Callable[[Outcome], None]
    work: Work
    left: int
    arrived: float = field(default_factory=monotonic)
    started: float = 0.0
    ended: bool = False
    lengths: list[NDArray[np.int64]] = field(default_factory=list)
    tokenize_seconds: float = 0.0
    units: "list[_Unit]" = field(default_factory=list)
    portions: Iterator[Tokens] = field(default_factory=lambda: iter(()))


@dataclass(eq=False)
class _Unit:
    """A tokenized portion of a job.

    Attributes:
        job: The job.
        tokens: The token ids.
        start: The position of its first item in the job.
        pool: The pool that its texts wait in.
        left: Keys of the texts that wait in the pool, the longest last.
        arrived: When it came into the pool.
    """

    job: Job
    tokens: Tokens
    start: int
    pool: "_Pool"
    left: list[tuple[int, int]] = field(default_factory=list)
    arrived: float = field(default_factory=monotonic)


@dataclass(eq=False)
class _Pool:
    """Texts that may share a batch, sorted by length.

    Attributes:
        runner: The runner.
        outputs: The graph outputs that are computed.
        entries: (tokens, number, unit, row) of every text.
    """

    runner: Runner
    outputs: tuple[str, ...]
    entries: list[tuple[int, int, _Unit, int]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Taken:
    """A batch that a thread computes."""

    runner: Runner
    lane: Lane
    rows: list[Rows]
    units: list[_Unit]
    computed: int
    alone: bool
    waited: float


class Queue:
    """The queue of one device, or of several models that share the cores of a machine.

    Args:
        threads: Threads that compute batches: the `workers` of the engines.
        most_requests: Requests that may wait or run at the same time, for each lane.
        most_texts: Texts that may wait at the same time.
        observe: Called with the record of every batch, by one of the queue's threads.
    """

    def __init__(
        self,
        threads: int,
        *,
        most_requests: int = 512,
        most_texts: int = 65536,
        observe: Callable[[BatchRecord], None] = lambda _: None,
    ) -> None:
        self._most_requests = most_requests
        self._most_texts = most_texts
        self._observe = observe
        lock = RLock()  # guards everything below
        self._changed, self._can_read = Condition(lock), Condition(lock)
        self._numbers = count()
        self._jobs: dict[Lane, dict[Job, None]] = {lane: {} for lane in LANES}
        self._waiting_texts: dict[Lane, int] = dict.fromkeys(LANES, 0)
        self._waiting_tokens: dict[Lane, int] = dict.fromkeys(LANES, 0)
        self._pools: dict[tuple[Any, ...], _Pool] = {}
        self._units: dict[Lane, deque[_Unit]] = {lane: deque() for lane in LANES}
        self._unread: deque[Job] = deque()
        self._overtaken = False
        self._since_query = _BATCHES_AFTER_QUERY
        self._running: dict[Runner, int] = {}
        self._overlapped_at = float("-inf")
        self._closed = False
        self._tokens_per_second = 0.0
        self._threads = [Thread(target=self._compute, name=f"embedrt-batches-{i}", daemon=True) for i in range(threads)]
        self._threads.append(Thread(target=self._read, name="embedrt-tokenizer", daemon=True))
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        runner: Runner,
        items: Sequence[Any] | Tokens,
        request: Request,
        done: Callable[[Outcome], None],
        *,
        always: bool = False,
    ) -> Job:
        """Queue a run, and return at once.

        Few short texts are tokenized in this thread, within a fraction of a millisecond.

        Args:
            runner: The runner of the model's route.
            items: The texts or other items, as for `Runner.run`; not empty.
            request: The options.
            done: Called once with the outcome, by another thread; not called if this method raises, or after `cancel`.
            always: True to take the job even if the queue is full, as for checks of the server itself.

        Raises:
            QueueFull: Too many requests wait.
            QueueClosed: The queue takes no more.
            EmbedrtError: A text cannot be read, or is truncated although the request forbids it; of a large request,
                this is an outcome instead.
        """
        lane = _lane(runner, items)
        with self._changed:
            self._admit(lane, len(items), always=always)
            job = Job(runner, items, request, lane, done, runner.begin(items, request), len(items))
            self._jobs[lane][job] = None
            self._waiting_texts[lane] += len(items)
        job.portions = runner.read(items, request, _PORTION)
        if lane == "query":
            try:
                started = monotonic()
                read = [*job.portions]
                job.tokenize_seconds = monotonic() - started
                _require_untruncated(job, read)
            except BaseException:
                self.cancel(job)
                raise
            with self._changed:
                for tokens in read:
                    self._add(job, tokens)
            return job
        with self._changed:
            self._unread.append(job)
            self._can_read.notify()
        return job

    def _admit(self, lane: Lane, texts: int, *, always: bool) -> None:
        if self._closed:
            raise QueueClosed("the server is about to end, and takes no more requests")
        requests, waiting = len(self._jobs[lane]), self._waiting_texts[lane]
        if not always and (requests >= self._most_requests or waiting + texts > self._most_texts):
            raise QueueFull(f"{requests} requests with {waiting} texts wait already", self._retry_seconds(lane))

    def _retry_seconds(self, lane: Lane) -> int:
        """The seconds in which half of what waits should be computed, at least 1."""
        unread = sum(len(job.items) for job in self._unread) * 64
        tokens = self._waiting_tokens[lane] + (unread if lane == "bulk" else 0)
        seconds = tokens / 2 / self._tokens_per_second if self._tokens_per_second else 1.0
        return int(min(_MOST_RETRY_SECONDS, max(1.0, seconds)))

    def cancel(self, job: Job) -> None:
        """Drop a job: its texts leave the queue, and its outcome is not delivered. A running batch is finished."""
        with self._changed:
            if job.ended:
                return
            self._remove(job)
            self._can_read.notify()

    def close(self) -> None:
        """Take no more jobs; the threads end when the last one is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._can_read.notify_all()

    def join(self, seconds: float) -> bool:
        """Wait until the threads have ended, after `close`; return False if they have not."""
        end = monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def is_alive(self) -> bool:
        """True while all threads work."""
        return all(thread.is_alive() for thread in self._threads)

    def waiting(self, lane: Lane) -> tuple[int, int, float]:
        """The requests and the texts that wait in a lane, and the seconds that the oldest has waited."""
        with self._changed:
            units = self._units[lane]
            oldest = units[0].job.arrived if units else None
            if lane == "bulk" and self._unread:
                oldest = min(self._unread[0].arrived, monotonic() if oldest is None else oldest)
            age = 0.0 if oldest is None else monotonic() - oldest
            return len(self._jobs[lane]), self._waiting_texts[lane], age

    # The thread that tokenizes requests of many texts, a portion of each in turn.

    def _read(self) -> None:
        while (job := self._next_unread()) is not None:
            started = monotonic()
            tokens: list[Tokens] = []
            failure: BaseException | None = None
            try:
                if job.request.forbid_truncation:  # nothing is computed if a text is too long
                    tokens = [*job.portions]
                    _require_untruncated(job, tokens)
                elif (portion := next(job.portions, None)) is not None:
                    tokens = [portion]
            except BaseException as error:  # noqa: BLE001 - whatever it is, the client gets it, and the thread goes on
                failure = error
            job.tokenize_seconds += monotonic() - started
            with self._changed:
                if job.ended:
                    continue
                for part in tokens:
                    self._add(job, part)
                if failure is None and tokens and sum(map(len, job.lengths)) < len(job.items):
                    self._unread.append(job)
            if failure is not None:
                self._end(job, failure)

    def _next_unread(self) -> Job | None:
        with self._changed:
            while True:
                if self._unread:
                    job = self._unread[0]
                    ahead = _AHEAD * job.runner.token_budget * max(1, len(self._threads) - 1)
                    if self._waiting_tokens["bulk"] < ahead or job.request.forbid_truncation:
                        return self._unread.popleft()
                elif self._closed:
                    return None
                self._can_read.wait()

    def _add(self, job: Job, tokens: Tokens) -> None:
        """Put a tokenized portion into the pool. With the lock."""
        if job.ended:
            return
        lengths = tokens.lengths
        start = sum(map(len, job.lengths))
        job.lengths.append(lengths)
        job.work.truncated.extend(start + i for i in tokens.truncated)
        key = (job.runner, job.request.gather.outputs, job.lane)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = _Pool(job.runner, job.request.gather.outputs)
        unit = _Unit(job, tokens, start, pool)
        numbers = self._numbers
        if len(lengths) < _QUERY_TEXTS:
            for row, length in enumerate(lengths.tolist()):
                number = next(numbers)
                insort(pool.entries, (length, number, unit, row))
                unit.left.append((length, number))
            unit.left.sort()
        else:
            added = [(length, next(numbers), unit, row) for row, length in enumerate(lengths.tolist())]
            pool.entries.extend(added)
            pool.entries.sort()
            unit.left = sorted((length, number) for length, number, _, _ in added)
        job.units.append(unit)
        self._units[job.lane].append(unit)
        self._waiting_tokens[job.lane] += int(lengths.sum())
        self._changed.notify(len(lengths))

    # The threads that compute batches.

    def _compute(self) -> None:
        while (taken := self._take()) is not None:
            started = monotonic()
            failures: Sequence[BaseException | None]
            try:
                failures = taken.runner.compute(taken.rows, alone=taken.alone)
            except BaseException as error:
                logger.exception("a batch of %s failed", taken.runner.name)
                failures = [error] * len(taken.rows)
            seconds = monotonic() - started
            record = _record(taken, seconds, failed=any(failure is not None for failure in failures))
            ended: list[tuple[Job, BaseException | None]] = []
            with self._changed:
                self._running[taken.runner] -= 1
                if not self._running[taken.runner]:
                    del self._running[taken.runner]
                rate = record.computed / max(seconds, 1e-6) * max(1, len(self._threads) - 1)
                self._tokens_per_second += _NEWEST * (rate - self._tokens_per_second)
                for unit, rows, failure in zip(taken.units, taken.rows, failures, strict=True):
                    job = unit.job
                    job.left -= len(rows.rows)
                    if not job.ended and (failure is not None or job.left == 0):
                        self._remove(job)
                        ended.append((job, failure))
                self._changed.notify()  # for a model whose threads were all busy
            for job, failure in ended:
                _deliver(job, failure)
            self._observe(record)

    def _take(self) -> _Taken | None:
        with self._changed:
            while True:
                for lane in self._lanes():
                    if (taken := self._take_from(lane)) is not None:
                        return taken
                if self._closed and not any(self._jobs.values()):
                    self._changed.notify_all()
                    return None
                self._changed.wait()

    def _lanes(self) -> tuple[Lane, ...]:
        """The lanes in the order in which the next batch is taken."""
        return ("bulk", "query") if self._overtaken else ("query", "bulk")

    def _take_from(self, lane: Lane) -> _Taken | None:
        units = self._units[lane]
        while units and not units[0].left:
            units.popleft()
        for unit in units:
            runner = unit.job.runner
            if unit.left and self._running.get(runner, 0) < runner.engine.workers:
                break
        else:
            return None
        pool = unit.pool
        self._since_query = 0 if lane == "query" else self._since_query + 1
        smaller = lane == "bulk" and self._since_query <= _BATCHES_AFTER_QUERY
        budget = runner.token_budget // (_SMALLER if smaller else 1)
        start, end, computed = _window(pool, bisect_left(pool.entries, unit.left[-1]), budget)
        now = monotonic()
        by_unit: dict[_Unit, list[int]] = {}
        tokens = 0
        for length, number, owner, row in pool.entries[start:end]:
            by_unit.setdefault(owner, []).append(row)
            del owner.left[bisect_left(owner.left, (length, number))]
            tokens += length
        del pool.entries[start:end]
        self._waiting_tokens[lane] -= tokens
        self._waiting_texts[lane] -= end - start
        for owner in by_unit:
            owner.job.started = owner.job.started or now
        self._overtaken = lane == "query" and self._is_waiting("bulk")
        others = sum(self._running.values())
        if others:
            self._overlapped_at = now
        alone = not others and now - self._overlapped_at > _QUIET_SECONDS and not any(map(self._is_waiting, LANES))
        self._running[runner] = self._running.get(runner, 0) + 1
        if lane == "bulk":
            self._can_read.notify()
        return _Taken(
            runner,
            lane,
            [Rows(one.job.work, one.tokens, one.start, np.array(rows, np.int64)) for one, rows in by_unit.items()],
            [*by_unit],
            computed,
            alone,
            now - min(one.arrived for one in by_unit),
        )

    def _is_waiting(self, lane: Lane) -> bool:
        return any(unit.left for unit in self._units[lane])

    # The end of a job.

    def _end(self, job: Job, failure: BaseException) -> None:
        with self._changed:
            if job.ended:
                return
            self._remove(job)
        _deliver(job, failure)

    def _remove(self, job: Job) -> None:
        """Take what is left of a job out of the queue. With the lock."""
        job.ended = True
        self._jobs[job.lane].pop(job, None)
        pooled = sum(map(len, job.lengths))
        self._waiting_texts[job.lane] -= len(job.items) - pooled
        for unit in job.units:
            entries = unit.pool.entries
            for key in unit.left:
                del entries[bisect_left(entries, key)]
            self._waiting_texts[job.lane] -= len(unit.left)
            self._waiting_tokens[job.lane] -= sum(length for length, _ in unit.left)
            unit.left.clear()
            name = (job.runner, unit.pool.outputs, job.lane)
            if not entries and self._pools.get(name) is unit.pool:
                del self._pools[name]  # a closed model is freed
        if job in self._unread:
            self._unread.remove(job)
        if self._closed and not any(self._jobs.values()):
            self._changed.notify_all()


def _lane(runner: Runner, items: Sequence[Any] | Tokens) -> Lane:
    """The lane of a request: few items that fit one batch are a query."""
    if len(items) > _QUERY_TEXTS:
        return "bulk"
    if isinstance(items, Tokens):
        return "query" if len(items.ids) <= runner.token_budget else "bulk"
    characters = sum(map(characters_of, items))
    most = min(_QUERY_CHARACTERS * runner.token_budget, _MOST_QUERY_CHARACTERS)
    return "query" if characters <= most else "bulk"


def characters_of(item: str | Sequence[str]) -> int:
    """The characters of a text, or of a pair of texts."""
    return len(item) if isinstance(item, str) else sum(map(len, item))


def _window(pool: _Pool, at: int, budget: int) -> tuple[int, int, int]:
    """The texts that share a batch with one: neighbors by length, while padding costs less than a batch of its own.

    Args:
        pool: The texts that wait.
        at: The index of the one.
        budget: Tokens of the batch, padding included.

    Returns:
        Start and end of the texts in the pool, and the tokens to compute, padding included.
    """
    entries, runner = pool.entries, pool.runner
    run_cost = runner.engine.device.run_cost
    start, end = at, at + 1
    longest = entries[at][0]
    if runner.is_packed:
        total = longest
        while True:
            if start > 0 and total + entries[start - 1][0] <= budget:
                start -= 1
                total += entries[start][0]
            elif end < len(entries) and total + entries[end][0] <= budget:
                total += entries[end][0]
                end += 1
            else:
                return start, end, total
    while True:
        rows = end - start
        below = longest - entries[start - 1][0] if start > 0 else run_cost + 1
        above = (entries[end][0] - longest) * rows if end < len(entries) else run_cost + 1
        if above <= below and above <= run_cost and entries[end][0] * (rows + 1) <= budget:
            longest = entries[end][0]
            end += 1
        elif below <= run_cost and longest * (rows + 1) <= budget:
            start -= 1
        else:
            return start, end, longest * rows


def _record(taken: _Taken, seconds: float, *, failed: bool) -> BatchRecord:
    return BatchRecord(
        taken.runner.name,
        taken.lane,
        len({unit.job for unit in taken.units}),
        sum(len(rows.rows) for rows in taken.rows),
        sum(int(rows.tokens.lengths[rows.rows].sum()) for rows in taken.rows),
        taken.computed,
        taken.runner.token_budget,
        seconds,
        taken.waited,
        failed,
    )


def _require_untruncated(job: Job, read: Sequence[Tokens]) -> None:
    if job.request.forbid_truncation:
        require_untruncated(Tokens.joined(read).truncated, job.request.max_seq_length)


def _deliver(job: Job, failure: BaseException | None) -> None:
    lengths = np.concatenate(job.lengths) if job.lengths else np.zeros(0, np.int64)
    now = monotonic()
    started = job.started or now
    if failure is not None and not isinstance(failure, Exception):
        failure = InferenceError(f"the engine failed: {type(failure).__name__}")
    job.done(
        Outcome(
            Result(job.work.values, job.work.truncated) if failure is None else None,
            failure,
            lengths,
            job.tokenize_seconds,
            started - job.arrived,
            now - started,
        )
    )
