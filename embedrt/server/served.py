"""`Served`: one open model of a server, whose methods handlers await."""

import asyncio
import dataclasses
import logging
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import KIND_OF_TASK, Manifest
from embedrt.cross_encoder import CrossEncoder
from embedrt.errors import EmbedrtError, NonFiniteError, OutOfMemory, TruncationError
from embedrt.inputs.check import check_texts
from embedrt.inputs.text import Side, TextTokenizer, Tokens
from embedrt.model import Model
from embedrt.run.queue import Outcome, Queue, QueueClosed, QueueFull, characters_of
from embedrt.run.request import Gather, Request
from embedrt.run.runner import Runner
from embedrt.server.errors import Excess, RequestError
from embedrt.server.notes import Context
from embedrt.server.settings import ModelSettings, Pooling
from embedrt.tasks.activations import NamedActivation
from embedrt.tasks.call import call_for, prompt_for, route_for, task_prompt
from embedrt.tasks.embed import SentenceVectors, TokenVectors, request_of
from embedrt.tasks.multi_vector import Counted, MultiVectors, multi_vector_call
from embedrt.tasks.rerank import score_call, scores_of
from embedrt.tasks.sparse import SparseRows
from embedrt.types import TOKENS, OnTruncation, Task
from embedrt.vectors.sparse import SparseVectors

logger = logging.getLogger("embedrt")

# A text that is truncated from the left is tokenized whole.
_MOST_FROM_LEFT = 1 << 18
# Numbers in the vectors of all tokens of a request: 256 MB, and a gigabyte as JSON.
_TOKEN_NUMBERS = 1 << 26
# The tokens of a text that is too long are counted if it has at most so many characters for each token of the limit.
_COUNTED_CHARACTERS = 250

_POOLINGS: Mapping[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last-token"}
"""The names of text-embeddings-inference for the pooling modes of modules."""

Role = Literal["query", "document"]
"""The side of a search that a text is on."""

ROLES: tuple[Role, ...] = ("query", "document")


@dataclass(frozen=True)
class Values:
    """The outcome of a request to a model.

    Attributes:
        values: Vectors `[texts, dim]`, scores, sparse vectors, or a list with one array a text.
        lengths: The tokens of every item, after truncation, int64 `[items]`.
        truncated: Indexes of the truncated items.
    """

    values: Any
    lengths: NDArray[np.int64]
    truncated: list[int]

    @property
    def tokens(self) -> int:
        """All tokens."""
        return int(self.lengths.sum())


@dataclass(frozen=True)
class Options:
    """Options of a request that all dialects have in some form.

    Attributes:
        role: The side of a search that the texts are on; None takes neither prompt nor route of a side.
        prompt_name: The model's prompt to put before every text; None takes the one of the role, if any.
        prompt: A prompt of the client's own.
        truncate: True to truncate texts that are too long, False for an error; None takes the model's setting.
        truncation_side: The side of a text that truncation removes; None takes the tokenizer's.
        param: The field with the texts, for messages.
    """

    role: Role | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    truncate: bool | None = None
    truncation_side: Side | None = None
    param: str = "input"


class Served:
    """One open model of a server.

    Attributes:
        settings: Its configuration.
        model: The model.
        task: Its kind.
    """

    def __init__(self, settings: ModelSettings, model: Model, queue: Queue) -> None:
        self.settings = settings
        self.model = model
        self.task: Task = model.manifest.task
        self._queue = queue
        self._pending: set[asyncio.Future[Outcome]] = set()
        self._mailbox: _Mailbox | None = None
        self._checking: asyncio.Future[None] | None = None

    @property
    def name(self) -> str:
        """The name that clients use."""
        return self.settings.name

    @property
    def pooling(self) -> str:
        """The pooling, as text-embeddings-inference names it; "none" for models without."""
        return pooling_of(self.model.manifest)

    def offers(self, task: Task) -> bool:
        """Return True if the model does a task; some do several."""
        return self.model.manifest.offers(KIND_OF_TASK[task])

    async def embed(
        self,
        exchange: Context,
        texts: Sequence[str] | Tokens,
        options: Options,
        *,
        dim: int | None = None,
        normalize: bool = False,
    ) -> Values:
        """Sentence embeddings, `[texts, dim]`, as `Embedder.encode` gives them.

        Args:
            exchange: The request.
            texts: The texts; or token ids with special tokens.
            options: The options.
            dim: Coordinates to keep; None takes the model's.
            normalize: Scale the vectors to length 1, after truncation.
        """
        self._require("embed")
        model = self.model
        with _as_request_error(options.param):
            items = texts if isinstance(texts, Tokens) else check_texts(texts, options.param)[0]
            call = call_for(
                model,  # type: ignore[arg-type]  # of the task "embed", so an `Embedder`
                prompt_name=self._prompt_name(options),
                prompt=options.prompt,
                normalize_embeddings=normalize,
                truncate_dim=dim,
                task=self._task(options),
                on_truncation=self._on_truncation(options),
            )
        return await self._run(exchange, model.runners[call.route], items, request_of(call), options)

    async def embed_tokens(self, exchange: Context, texts: Sequence[str], options: Options) -> Values:
        """One array `[tokens, width]` a text: its token embeddings, or the multi-vector embedding of such a model."""
        model = self.model
        with _as_request_error(options.param):
            items = check_texts(texts, options.param)[0]
            if self.offers("multi-vector"):
                call, request = multi_vector_call(
                    model,
                    prompt_name=self._prompt_name(options),
                    prompt=options.prompt,
                    batch_size=None,
                    output_value=TOKENS,
                    normalize_embeddings=False,
                    token_pooling=None,
                    task=options.role,
                    on_truncation=self._on_truncation(options),
                )
            else:
                self._require("embed")
                call = call_for(
                    model,  # type: ignore[arg-type]
                    prompt_name=self._prompt_name(options),
                    prompt=options.prompt,
                    output_value=TOKENS,
                    task=self._task(options),
                    on_truncation=self._on_truncation(options),
                )
                request = dataclasses.replace(request_of(call), gather=TokenVectors())
        width = model.manifest.width("multi-vector" if self.offers("multi-vector") else "tokens")
        _check_vectors_of_tokens(items, call.max_seq_length, width, options.param)
        return await self._run(exchange, model.runners[call.route], items, request, options)

    async def embed_sparse(self, exchange: Context, texts: Sequence[str], options: Options) -> Values:
        """`SparseVectors` `[texts, vocabulary]`."""
        self._require("sparse")
        model = self.model
        with _as_request_error(options.param):
            items = check_texts(texts, options.param)[0]
            call = call_for(
                model,  # type: ignore[arg-type]  # an `Embedder` or a `SparseEncoder`
                prompt_name=self._prompt_name(options),
                prompt=options.prompt,
                task=self._task(options),
                on_truncation=self._on_truncation(options),
            )
        limit = None if model.manifest.sparse is None else model.manifest.sparse.max_active_dims
        request = dataclasses.replace(request_of(call), gather=SparseRows(limit))
        outcome = await self._run(exchange, model.runners[call.route], items, request, options)
        rows = SparseVectors.from_rows(outcome.values, model.manifest.width("sparse"))
        return dataclasses.replace(outcome, values=rows)

    async def score(
        self,
        exchange: Context,
        items: Sequence[str | tuple[str, str]],
        options: Options,
        *,
        raw: bool = False,
    ) -> Values:
        """Scores of pairs as `CrossEncoder.predict` gives them: `[pairs]`, or `[pairs, labels]` for several labels.

        Args:
            exchange: The request.
            items: Pairs of texts; or else texts, which are scored as they are.
            options: The options.
            raw: Return the logits, without activation.
        """
        self._require("score")
        model = self.model
        if not isinstance(model, CrossEncoder):
            raise TypeError(f"{self.name}: expected a CrossEncoder, got {type(model).__name__}")
        lone = len(items) > 0 and isinstance(items[0], str)
        with _as_request_error(options.param):
            call = score_call(
                model,
                items[0] if lone else items,
                prompt_name=self._prompt_name(options),
                prompt=options.prompt,
                batch_size=None,
                activation=NamedActivation("Identity") if raw else model.activation_fn,
                apply_softmax=False,
                on_truncation=self._on_truncation(options),
            )
            if lone:
                call = dataclasses.replace(call, items=check_texts(items, options.param)[0])
        outcome = await self._run(exchange, model.runners[call.call.route], call.items, call.request, options)
        return dataclasses.replace(outcome, values=scores_of(call, outcome))  # type: ignore[arg-type]  # has `values`

    def warm_up(self) -> None:
        """Make what requests would make on first use: the sessions of every route.

        Raises:
            EmbedrtError: The model failed on a short text.
        """
        for route, runner in self.model.runners.items():
            items, request = self._probe(route)
            runner.warm_up(items, request)

    async def check(self) -> None:
        """Run the model on a short text. Checks at the same time share one run.

        Raises:
            RequestError: It failed, or a thread of its queue has died.
        """
        if self._checking is None or self._checking.done():
            self._checking = asyncio.ensure_future(self._check())
            self._checking.add_done_callback(lambda check: check.cancelled() or check.exception())  # may have no waiter
        await asyncio.shield(self._checking)

    async def _check(self) -> None:
        items, request = self._probe(self._first)
        try:
            outcome = await self._outcome(self.model.runners[self._first], items, request, always=True)
        except EmbedrtError as error:
            raise RequestError("the model failed on a short text", "unhealthy") from error
        if outcome.failure is not None:
            raise RequestError("the model failed on a short text", "unhealthy") from outcome.failure

    def prompt(self, options: Options) -> str:
        """The prompt that goes before the texts of a request."""
        with _as_request_error(options.param):
            model = self.model
            return prompt_for(model.prompts, model.default_prompt_name, self._prompt_name(options), options.prompt)

    def tokenizer(self, options: Options) -> tuple[Runner, TextTokenizer]:
        """The runner of a request's route, and the tokenizer that truncates as the model does."""
        with _as_request_error(options.param):
            route = route_for(self.model.manifest, self._task(options)) if self.task == "embed" else self._first
            runner = self.model.runners[route]
            return runner, runner.tokenizer(self.model.lengths[route])

    # Details.

    @property
    def _first(self) -> str:
        return next(iter(self.model.runners))

    def _probe(self, route: str) -> tuple[list[Any], Request]:
        model = self.model
        if isinstance(model, CrossEncoder):
            call = score_call(
                model,
                [("health", "check")],
                prompt_name=None,
                prompt=None,
                batch_size=None,
                activation=NamedActivation("Identity"),
                apply_softmax=False,
                on_truncation="ignore",
            )
            return call.items, call.request
        gather: Gather = SentenceVectors(1)
        if self.task == "sparse":
            gather = SparseRows(1)
        elif self.task == "multi-vector":
            gather = MultiVectors(Counted())
        return ["health check"], Request(gather, model.lengths[route])

    def _require(self, task: Task) -> None:
        if not self.offers(task):
            raise RequestError(
                f"the model {self.name!r} is of the task {self.task!r}, and this route needs one of {task!r}",
                code="wrong_task",
                param="model",
            )

    def _task(self, options: Options) -> str | None:
        tasks = self.model.manifest.tasks
        return options.role if options.role in tasks or options.role is None else None

    def _prompt_name(self, options: Options) -> str | None:
        if options.prompt_name is not None or options.prompt is not None or options.role is None:
            return options.prompt_name
        return task_prompt(self.model.prompts, options.role, None, None)

    def _on_truncation(self, options: Options) -> OnTruncation:
        truncate = self.settings.auto_truncate if options.truncate is None else options.truncate
        return "ignore" if truncate else "error"

    async def _run(
        self, exchange: Context, runner: Runner, items: Sequence[Any] | Tokens, request: Request, options: Options
    ) -> Values:
        """Compute a request in the queue, and note its facts for headers, metrics and log."""
        check_count(items, exchange, options.param)
        if options.truncation_side is not None:
            request = await _on_side(runner, items, request, options)
        notes = exchange.notes
        notes.model = self.name
        with _as_request_error(options.param):
            try:
                outcome = await self._outcome(runner, items, request)
                result = outcome.get()
            except TruncationError as error:
                raise await _too_long(runner, items, request, options.param, error) from error
        truncated = sorted(result.truncated)
        notes.texts += len(items)
        notes.characters += 0 if isinstance(items, Tokens) else sum(map(characters_of, items))
        notes.tokens += int(outcome.lengths.sum())
        notes.truncated.extend(truncated)
        notes.tokenize_seconds += outcome.tokenize_seconds
        notes.queue_seconds += outcome.queue_seconds
        notes.engine_seconds += outcome.engine_seconds
        return Values(result.values, outcome.lengths, truncated)

    async def _outcome(
        self, runner: Runner, items: Sequence[Any] | Tokens, request: Request, *, always: bool = False
    ) -> Outcome:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()

        if not self._queue.is_alive:
            raise _stopped()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = _Mailbox(loop)
        job = self._queue.submit(runner, items, request, partial(self._mailbox.put, future), always=always)
        self._pending.add(future)
        try:
            return await future
        except asyncio.CancelledError:
            self._queue.cancel(job)
            raise
        finally:
            self._pending.discard(future)

    def fail_if_stopped(self) -> bool:
        """Fail what waits for the queue if one of its threads has died; return True if one has."""
        if self._queue.is_alive:
            return False
        for future in self._pending:
            if not future.done():
                future.set_exception(_stopped())
        return True


def _stopped() -> RequestError:
    return RequestError("the engine has stopped; restart the server", "unhealthy")


def _check_vectors_of_tokens(texts: Sequence[str], limit: int | None, width: int, param: str) -> None:
    """Check that the vectors of all tokens fit into a bounded part of the memory.

    Raises:
        RequestError: They may not: a token takes a character at least.
    """
    tokens = sum(len(text) if limit is None else min(len(text), limit) for text in texts)
    most = _TOKEN_NUMBERS // width
    if tokens > most:
        raise RequestError(
            f"{param}: expected texts of at most {most} tokens in all for vectors of tokens, got up to {tokens}; send "
            "fewer texts at a time",
            "too_large",
            param=param,
            code="too_many_tokens",
        )


def check_count(items: Sized, exchange: Context, param: str) -> None:
    """Check the number of items of a request.

    Args:
        items: The items.
        exchange: The request.
        param: The field with the items, for messages.

    Raises:
        RequestError: There is none, or there are more than the server allows.
    """
    if not len(items):
        raise RequestError(f"`{param}` cannot be empty", "empty", param=param)
    most = exchange.settings.limits.request_texts
    if len(items) > most:
        raise RequestError(
            f"`{param}`: expected at most {most} items in a request, got {len(items)}",
            "too_large",
            param=param,
            code="too_many_items",
            excess=Excess(len(items), most, "items"),
        )


async def _on_side(runner: Runner, items: Sequence[Any] | Tokens, request: Request, options: Options) -> Request:
    """The request with the side of its options, whose tokenizer is loaded in another thread."""
    if options.truncation_side == "left" and not isinstance(items, Tokens):
        longest = max(range(len(items)), key=lambda i: characters_of(items[i]))
        if (found := characters_of(items[longest])) > _MOST_FROM_LEFT:
            raise RequestError(
                f"{options.param}[{longest}]: expected at most {_MOST_FROM_LEFT} characters for truncation from the "
                f"left, got {found}; send the end of the text",
                param=options.param,
                index=longest,
                excess=Excess(found, _MOST_FROM_LEFT, "characters"),
            )
    await asyncio.to_thread(runner.tokenizer, request.max_seq_length, options.truncation_side)
    return dataclasses.replace(request, truncation_side=options.truncation_side)


async def _too_long(
    runner: Runner, items: Sequence[Any] | Tokens, request: Request, param: str, error: TruncationError
) -> RequestError:
    """The failure of an item that is too long, with the number of its tokens."""
    index, limit = _index(error) or 0, request.max_seq_length
    if limit is None or isinstance(items, Tokens):
        return RequestError(_renamed(error, param), "truncated", param=param, index=index)
    characters = characters_of(items[index])
    if characters > limit * _COUNTED_CHARACTERS:
        excess = Excess(characters, limit * _COUNTED_CHARACTERS, "characters")
    else:
        whole = dataclasses.replace(request, max_seq_length=None, forbid_truncation=False, truncation_side=None)
        tokens = await asyncio.to_thread(runner.tokens, [items[index]], whole)
        excess = Excess(int(tokens.lengths[0]), limit, "tokens")
    return RequestError(
        f"{param}[{index}]: expected at most {excess.most} {excess.unit}, got {excess.given}; shorten the text, or let "
        "it be truncated",
        "truncated",
        param=param,
        index=index,
        excess=excess,
    )


class _Mailbox:
    """Outcomes on their way from the queue's threads to the event loop, which is woken once for many.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._outcomes: deque[tuple[asyncio.Future[Outcome], Outcome]] = deque()
        self._is_awake = False

    def put(self, future: "asyncio.Future[Outcome]", outcome: Outcome) -> None:
        """Send an outcome, from any thread."""
        self._outcomes.append((future, outcome))
        if self._is_awake:
            return
        self._is_awake = True
        try:
            self.loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop has ended, and with it the client
            logger.debug("a result came after the end of the server")

    def _deliver(self) -> None:
        self._is_awake = False  # what comes from here on wakes the loop again
        while self._outcomes:
            future, outcome = self._outcomes.popleft()
            if not future.done():
                future.set_result(outcome)


@contextmanager
def _as_request_error(param: str) -> Iterator[None]:
    """Turn what a call raises into a `RequestError`."""
    try:
        yield
    except QueueFull as error:
        raise RequestError("Model is overloaded", "overloaded", retry_after=error.retry_after) from error
    except QueueClosed as error:
        raise RequestError("the server is about to end", "unhealthy", retry_after=1) from error
    except TruncationError as error:
        raise RequestError(_renamed(error, param), "truncated", param=param, index=_index(error)) from error
    except NonFiniteError as error:
        message = f"{_renamed(error, param).partition(':')[0]}: the model returned NaN or infinity"
        raise RequestError(message, "backend", param=param, code="not_finite", index=_index(error)) from error
    except OutOfMemory as error:
        message = f"{_renamed(error, param).partition(':')[0]}: too long for the memory of the device"
        raise RequestError(message, "backend", param=param, code="out_of_memory", index=_index(error)) from error
    except (ValueError, TypeError) as error:
        name = str(error).partition(":")[0].partition("[")[0]
        raise RequestError(_renamed(error, param), param=_PARAMS.get(name, name), index=_index(error)) from error
    except EmbedrtError as error:
        logger.exception("a request failed")
        raise RequestError("the model failed; the server's log has the reason", "backend") from error


# The fields of requests by the arguments that messages name.
_PARAMS = {"truncate_dim": "dimensions", "texts": "input"}


def _renamed(error: Exception, param: str) -> str:
    """The message of an error about texts, with the name of the field that they came in."""
    message = re.sub(r"\b(texts|inputs)\[", f"{param}[", str(error))
    return message.replace("truncate_dim:", "dimensions:")


def _index(error: Exception) -> int | None:
    """The index of the first bad item that a message names."""
    found = re.search(r"\[(\d+)\]", str(error).partition(":")[0])
    return int(found[1]) if found else None


def pooling_of(manifest: Manifest) -> str:
    """The pooling of a model, as text-embeddings-inference names it; "none" for models without."""
    if manifest.task == "sparse":
        return "splade"
    modules = [module for route in manifest.routes.values() for module in route.modules]
    modes = [mode for module in modules for mode in module.settings.get("pooling_mode", ())]
    return " and ".join(dict.fromkeys(_POOLINGS.get(mode, str(mode)) for mode in modes)) or "none"
