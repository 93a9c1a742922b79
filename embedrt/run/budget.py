"""`Budget`: the tokens of a batch, fewer once a batch did not fit into memory."""

import logging
from threading import RLock

logger = logging.getLogger("embedrt")


class Budget:
    """Token budget of the batches of a runner, for all of its threads.

    Args:
        tokens: The budget at first.

    Attributes:
        tokens: The budget.
        is_lowered: True if it is smaller than at first.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.is_lowered = False
        self._lock = RLock()  # a signal handler may encode meanwhile

    def lower(self, tokens: int, device: str) -> None:
        """Lower the budget to a number of tokens; a budget that is lower already stays.

        Args:
            tokens: The new budget.
            device: The device whose memory a batch did not fit into, for the log.
        """
        with self._lock:
            if tokens >= self.tokens:
                return
            self.tokens = tokens
            self.is_lowered = True
        logger.warning(
            "a batch did not fit into the memory of %r; batches have at most %d tokens from here on (`max_tokens` sets "
            "the number)",
            device,
            tokens,
        )
