"""A log that no client can fill: the same thing is said once a minute at the most."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

_CALM_S = 60.0


class SeldomLog(logging.LoggerAdapter[logging.Logger]):
    """Takes the place of `logger`. Two lines are the same thing if they have the same form and kind of error."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logger, {})
        self.level = logger.level  # which uvicorn asks for
        self._clock = clock
        self._said_s: dict[object, float] = {}
        self._n_unsaid: dict[object, int] = {}

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        now_s, thing = self._clock(), (msg, type(kwargs.get("exc_info")))
        if now_s - self._said_s.get(thing, float("-inf")) < _CALM_S:
            self._n_unsaid[thing] = self._n_unsaid.get(thing, 0) + 1
            return
        self._said_s[thing] = now_s
        n_unsaid = self._n_unsaid.pop(thing, 0)
        super().log(level, f"{msg} ({n_unsaid} times more before)" if n_unsaid else msg, *args, **kwargs)
