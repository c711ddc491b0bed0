"""Writes that no request waits for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Final

from celery_asynctask.errors import StoreError, logger

MAX_WAITING: Final = 200
"""Writes that may wait for the database."""


class Background:
    """Does short pieces of work in a thread, one after the other, and loses none in silence."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._executor: ThreadPoolExecutor | None = None  # no thread before it is needed: a server may fork
        self._waiting = 0
        self._logged: dict[str, tuple[float, int]] = {}
        """By kind: when it was logged, and how many were not since."""
        self._is_closing = False
        self._gives_up = False

    def submit(self, work: Callable[[], None], what: str, every: float = 0.0) -> None:
        """Do ``work`` soon. Where it fails, ``what`` it writes is logged: all failures, or one in ``every`` seconds of
        those with the same beginning, up to a colon."""
        with self._lock:
            is_full = self._waiting >= MAX_WAITING or self._is_closing
            if not is_full:
                self._waiting += 1
                self._executor = self._executor or ThreadPoolExecutor(1, "celery-asynctask-writes")
                self._executor.submit(self._do, work, what, every)
        if is_full:
            self._log(what, every, "too much waits to be written")

    def close(self) -> None:
        """Finish what waits, unless the database is away."""
        with self._lock:
            self._is_closing = True
        if self._executor is not None:
            self._executor.shutdown()

    def _do(self, work: Callable[[], None], what: str, every: float) -> None:
        try:
            if self._gives_up:
                self._log(what, every, "the server ends, and the database is away")
                return
            work()
        except StoreError as exc:
            self._gives_up = self._is_closing
            self._log(what, every, str(exc))
        except Exception as exc:  # noqa: BLE001 - nobody looks at the future of this work
            self._log(what, every, repr(exc))
        finally:
            with self._lock:
                self._waiting -= 1

    def _log(self, what: str, every: float, why: str) -> None:
        kind = what.partition(":")[0]
        now = time.monotonic()
        with self._lock:
            at, before = self._logged.get(kind, (-math.inf, 0))
            is_due = now - at >= every
            self._logged[kind] = (now, 0) if is_due else (at, before + 1)
        if is_due:
            more = f" Before, {before:,} of this kind were not written either." if before else ""
            logger.warning("Not written: %s. %s%s", what, _sentence(why), more)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
