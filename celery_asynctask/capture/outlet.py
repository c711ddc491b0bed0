"""Where the events of a process go on their way to a store: one journal and one recorder for all apps that lead there.

Nothing here keeps an app alive. An outlet ends when the last app that uses it is closed, or was collected: its recorder
drains what there is, its thread ends, and the descriptors are given back. A later event of an app that was closed makes
it begin again; apps that come later get another one, whose journal is another process to the record.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import RLock
from typing import TYPE_CHECKING, Final

from celery_asynctask.core.forking import Undivided, reset_in_children
from celery_asynctask.journal import Journal
from celery_asynctask.recorder import Recorder
from celery_asynctask.settings import Settings

if TYPE_CHECKING:
    from celery_asynctask.capture.instrumentation import Instrumentation

_USED: Final = (
    *("url", "engine_options", "create_tables"),
    *("journal_max_bytes", "journal_keep", "flush_interval", "batch_size"),
)
"""Settings of the journal and the recorder, beside the directory. The others do not come to them: functions of the
user's may lead to the app."""


_outlets: weakref.WeakSet[Outlet] = weakref.WeakSet()
_looking = Undivided()
"""Keeps threads that look for one at the same time from making two."""


class Outlet:
    """The journal and the recorder of this process for one store, and who uses them. Safe for threads; starts over,
    without users, in a forked child."""

    def __init__(self, settings: Settings, store_id: str, role: Callable[[], str]) -> None:
        self.settings = settings
        self.journal = Journal(settings.directory, store_id, settings.journal_max_bytes, role=role)
        self.recorder = Recorder(settings, self.journal)
        self.recorder.before_work = self._before_work
        self.recorder.after_work = self.abandon
        self._reset()
        reset_in_children(self)

    def _reset(self) -> None:
        self._lock = RLock()
        self._users: weakref.WeakSet[Instrumentation] = weakref.WeakSet()

    def after_fork_in_child(self) -> None:
        self._reset()

    def users(self) -> list[Instrumentation]:
        """Those that use it now. The set itself may count one that is just being collected."""
        with self._lock:
            return list(self._users)

    def join(self, user: Instrumentation, *, stores: bool) -> None:
        """Keep it open until the user leaves or is collected; ``stores``: and run the recorder."""
        with self._lock:
            self._users.add(user)
            with _looking():
                _outlets.add(self)
            if stores:
                self.recorder.start()

    def leave(self, user: Instrumentation) -> Callable[[float], object]:
        """Store what is in the journal, and end if nobody else uses it. Returns what waits for that, for at most so
        many seconds."""
        with self._lock:
            self._users.discard(user)
            return self.recorder.flush() if self.users() else self._end()

    def abandon(self) -> None:
        """Count what still waits in memory as dropped, unless somebody uses it."""
        with self._lock:
            if not self.users():
                self.journal.abandon()

    def _before_work(self) -> None:
        with self._lock:
            users = self.users()
            if not users:  # they were collected
                self._end()
        for user in users:
            if user.before_work is not None:
                user.before_work()

    def _end(self) -> Callable[[float], object]:
        with _looking():
            _outlets.discard(self)
        self.journal.close()
        return self.recorder.end()


def outlet_of(settings: Settings, role: Callable[[], str]) -> Outlet:
    """The outlet for an app with these settings. It is that of other apps, too, if their store, journal directory and
    all else that the journal and the recorder are set to are the same."""
    used = {name: getattr(settings, name) for name in _USED}
    own, store_id = Settings(journal_dir=settings.directory, **used), settings.store_id
    with _looking():
        for outlet in _outlets:
            if (outlet.journal.store_id, outlet.settings) == (store_id, own):
                return outlet
        made = Outlet(own, store_id, role)
        _outlets.add(made)
        return made


def outlets() -> list[Outlet]:
    """All that have not ended."""
    with _looking():
        return list(_outlets)
