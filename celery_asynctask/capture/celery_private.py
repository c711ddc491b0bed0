"""The names of Celery, kombu and billiard that we rely on though they are private, or are used as no documentation
promises. No other module touches one; `tests/unit/capture/test_celery_private.py` holds Celery to what each does.

Where a name is gone (a later Celery calls it something else), what it was for is not recorded, and the rest is:
`missing` finds it, a worker and beat log it once when they start, ``celery asynctask doctor`` names it. The names are
those of Celery 5.5.0 and 5.7.0, kombu 5.5 and 5.7 and billiard 4.3; each says in which file of Celery it is.

Some are used where they are, not by way of this module:

=========================  ====================  ======================================================================
``Context.__dict__``       app/task.py           what `publish`, `run`, `extract`, `current` keep with a task's request,
                                                 and read of it, several times for each task
``Request.request_dict``   worker/request.py     what a child is sent; `headers` puts each delivery's token into it
``Task.bind``              app/task.py           `task` overrides it: it comes before a task can be sent (``__bound__``)
``conf.maps``, ``prefix``  utils/collections.py  which settings there are, in `settings`, which is above us
``conf.finalize``          app/utils.py          the same
``LOG_LEVEL``              bin/base.py           an option's type, in `cli.recorder`
=========================  ====================  ======================================================================
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import billiard
import celery
from billiard.process import current_process
from kombu.utils import json

from celery_asynctask.errors import logger

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["get_current_task"]

try:
    from celery._state import get_current_task  # itself: it is called for each task
except ImportError:

    def get_current_task() -> Any:
        """The task that runs in this thread, None outside of one, by Celery's public proxy, which is slower."""
        return celery.current_task or None


try:
    from celery._state import _task_stack
except ImportError:
    _task_stack = None


def calling_task() -> Any:
    """The task that called the (eager) one which runs in this thread, None where no task did (_state.py)."""
    stack: Any = getattr(_task_stack, "stack", ())
    return stack[-2] if len(stack) > 1 else None


# -- publishing

SEND_TASK_MESSAGE: Final = "send_task_message"
"""A cached property of an app's AMQP (app/amqp.py): what stands in the instance's dict under this name is what callers
get. They call it with a producer, the task's name, a ``task_message`` (headers, properties, body, sent_event) and
options, among them ``headers``, which are laid over the message's."""


def amqp_of(app: Celery) -> Any:
    """The AMQP that the app has made, None before its first use; asking the app would make it (app/base.py)."""
    return app.__dict__.get("amqp")


def amqp_class(app: Celery) -> Any:
    """What the app makes its AMQP of on first use (app/base.py): a class, a function or the dotted name of one; None
    where apps have no such thing."""
    return getattr(app, "amqp_cls", None)


def sends_messages(amqp: Any) -> bool:
    """Whether this AMQP has `SEND_TASK_MESSAGE`."""
    return SEND_TASK_MESSAGE in amqp.__dict__ or inspect.getattr_static(type(amqp), SEND_TASK_MESSAGE, None) is not None


def own_send_task_message(amqp: Any) -> Any:
    """What ``amqp.send_task_message`` is where nothing stands in for it, a subclass's too. Reads the configuration."""
    made = inspect.getattr_static(type(amqp), SEND_TASK_MESSAGE)
    if isinstance(made, functools.cached_property):
        return made.func(amqp)
    return made.__get__(amqp)


# -- runs

ON_TASK_INIT: Final = "on_task_init"
"""A method of an app's loader that a tracer (app/trace.py) looks up when it is built, and calls with (task id, task)
after all receivers of task_prerun, right before the body, in every pool."""


def on_task_init_of(app: Celery) -> Any:
    """The hook as the app's loader has it now, None where loaders have none."""
    return getattr(app.loader, ON_TASK_INIT, None)


def registered_tasks(app: Celery) -> Mapping[str, Any]:
    """The app's tasks so far by name, the live mapping (app/base.py): ``app.tasks`` without finalizing the app."""
    tasks: Mapping[str, Any] | None = getattr(app, "_tasks", None)
    return app.tasks if tasks is None else tasks


def build_tracers_again(app: Celery) -> None:
    """Have the tracers of a running worker look for `ON_TASK_INIT` anew (``task.__trace__``, app/task.py)."""
    tasks = registered_tasks(app)
    traced = [name for name, task in list(tasks.items()) if getattr(task, "__trace__", None) is not None]
    if not traced:
        return
    try:
        from celery.app.trace import build_tracer
    except ImportError:
        return
    for name in traced:
        tasks[name].__trace__ = build_tracer(name, tasks[name], app.loader, app=app)


def is_configured(app: Celery) -> bool:
    """Whether the app has read its configuration (app/base.py)."""
    return bool(getattr(app, "configured", False))


def is_pool_child() -> bool:
    """Whether this process is a child of a Celery worker's prefork pool, or another billiard process (process.py)."""
    return getattr(current_process(), "_parent_pid", None) is not None


# -- a worker's main process

_SUCCESS_WAS_STORED: Final = "_success_was_stored"


def context_of(request: Any) -> Any:
    """The Context that a worker's Request makes of its message, the same one each time (worker/request.py); None where
    it makes none, or there is no Request."""
    return getattr(request, "_context", None)


def is_acknowledged(request: Any) -> bool:
    """Whether the message of a worker's Request is acknowledged."""
    return bool(getattr(request, "acknowledged", False))


def still_waits(request: Any) -> bool:
    """Whether a worker's Request was received and nothing else: not started, acknowledged or revoked."""
    try:  # every message is asked about
        return request.time_start is None and not request.acknowledged and not request._already_revoked
    except AttributeError:
        names = ("time_start", "acknowledged", "_already_revoked")
        return not any(getattr(request, name, None) for name in names)


def hear_of_stored_results(tell: Callable[[Any, Mapping[str, Any]], object]) -> None:
    """Have the worker's requests ``tell`` (request, the result backend's entry) of a child that stored its result and
    was killed before it could say so.

    Celery 5.7 then acknowledges the message as that of a task that succeeded, and sends no signal
    (celery/worker/request.py on_failure); versions before call the task failed. Asked for lost children only.
    """
    from celery.worker.request import Request

    ask = getattr(Request, _SUCCESS_WAS_STORED, None)
    if ask is None or hasattr(ask, "__wrapped__"):
        return

    @functools.wraps(ask)
    def success_was_stored(self: Any) -> Any:
        stored = ask(self)
        if stored:
            tell(self, stored)
        return stored

    setattr(Request, _SUCCESS_WAS_STORED, success_was_stored)


def hear_of_decode_errors(consumer: Any, tell: Callable[[Any, Exception], object]) -> None:
    """Have a worker's consumer ``tell`` (message, what the decoder raised) of a body that it cannot decode: Celery
    sends no signal, it logs and acknowledges. It looks the method up for every message (worker/consumer/consumer.py).
    """
    decode_error = getattr(consumer, "on_decode_error", None)
    if decode_error is None:
        return

    def on_decode_error(message: Any, exc: Exception) -> Any:
        tell(message, exc)
        return decode_error(message, exc)

    consumer.on_decode_error = on_decode_error


def hear_of_entries(service: Any, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put ``around`` what the scheduler of a beat service sends an entry with, its first argument (beat.py)."""
    scheduler = getattr(service, "scheduler", None)
    if scheduler is not None and (send := getattr(scheduler, "apply_async", None)) is not None:
        scheduler.apply_async = around(send)


# -- sending again

read_envelopes: Final[Any] = json.loads
"""Reads JSON as Celery's consumers do (kombu/utils/json.py): ``{"__type__": ..., "__value__": ...}`` becomes a date,
a UUID, a Decimal or bytes. The function is documented, its envelopes are not."""


def options_of_task(task: Any) -> dict[str, Any]:
    """The options of publishing that a task has as attributes, like its queue (app/task.py)."""
    options = getattr(task, "_get_exec_options", dict)
    return dict(options())


def argument_check(task: Any) -> Callable[..., Any] | None:
    """Celery's own check of a task's arguments (app/base.py), which raises `TypeError` where they do not fit; None
    where it makes none."""
    check = getattr(task, "__header__", None) if getattr(task, "typing", False) else None
    return check if callable(check) else None


def route(app: Any, options: dict[str, Any], name: str, args: object, kwargs: object, task: Any) -> dict[str, Any]:
    """The options with the queue, or exchange and routing key, that the app would send the task with (app/routes.py).
    Raises what the user's routers raise, and `AttributeError` where there is no router."""
    routed: dict[str, Any] = app.amqp.router.route(options, name, args, kwargs, task)
    return routed


# -- is all there?


class Name(NamedTuple):
    """A private name; as text, that it is not there."""

    name: str
    lost: str
    """What the record lacks without it."""
    owner: str | Callable[[Any], object]
    """Which has it: ``module:Class``, or a module; or what says with the app whether it is there."""
    since: tuple[int, int] = (5, 5)
    """The first Celery that has it."""

    @property
    def library(self) -> str:
        """``Celery 5.8.0``."""
        is_billiard = self.name.startswith("billiard")
        return f"billiard {billiard.__version__}" if is_billiard else f"Celery {celery.__version__}"

    def __str__(self) -> str:
        return f"{self.library} has no {self.name}: {self.lost}"

    def is_there(self, app: Any) -> bool:
        """Whether the installed Celery has it; what is beat's, only where ``celery.beat`` is loaded."""
        try:
            if not isinstance(self.owner, str):
                return bool(self.owner(app))
            module, _, kind = self.owner.partition(":")
            if module == "celery.beat" and module not in sys.modules:
                return True
            owner = getattr(import_module(module), kind) if kind else import_module(module)
            inspect.getattr_static(owner, self.name.rpartition(".")[2])
        except Exception:  # noqa: BLE001 - it, or the module or class around it, is not there
            return False
        return True


def _tasks_have_headers(app: Any) -> bool:
    known = registered_tasks(app).get("celery.backend_cleanup")
    return known is None or hasattr(known, "__header__")


_REQUEST: Final = "celery.worker.request:Request"
_NOT_SENT: Final = "no task is recorded as PENDING, and no context travels with tasks"
_NO_ENTRY: Final = "tasks that beat sends lack the name of their entry in the schedule"
_UNREADABLE: Final = "the settings cannot be read, and nothing is recorded"
# fmt: off
_NAMES: Final = (
    Name("app.amqp_cls", _NOT_SENT, lambda app: hasattr(app, "amqp_cls")),
    Name("amqp.send_task_message", _NOT_SENT, "celery.app.amqp:AMQP"),
    Name("Context.__dict__", "no start or end of a task is recorded",
         lambda _: hasattr(import_module("celery.app.task").Context(), "__dict__")),
    Name("loader.on_task_init", "no task is recorded as STARTED", lambda app: hasattr(app.loader, ON_TASK_INIT)),
    Name("celery.app.trace.build_tracer", "a worker that runs when recording is installed records no task as STARTED",
         "celery.app.trace"),
    Name("celery._state._task_stack.stack", "a task that runs eagerly has no context of the task that calls it",
         lambda _: hasattr(_task_stack, "stack")),
    Name("Task.bind", "a RecordedTask does not switch recording on, only celery_asynctask.install(app) does",
         "celery.app.task:Task"),
    Name("app.configured", "install() does not refuse wrong settings, only a worker does when it starts",
         lambda app: hasattr(app, "configured")),
    Name("Request.request_dict",
         "no task is recorded as RECEIVED, and what a worker says of a killed child counts as another attempt",
         _REQUEST),
    Name("Request._context", "what a worker says of a killed child is not recorded", _REQUEST),
    Name("Request.time_start", "tasks that run count as waiting in their worker", _REQUEST),
    Name("Request.acknowledged", "a task that a shutdown cancels is recorded as RETRY, also where it is lost",
         _REQUEST),
    Name("Request._already_revoked", "tasks that are revoked count as waiting in their worker", _REQUEST),
    Name("Request._success_was_stored",
         "a task whose child is killed right after it stored its result is not recorded as SUCCESS", _REQUEST, (5, 7)),
    Name("Consumer.on_decode_error", "messages that cannot be decoded are not recorded",
         "celery.worker.consumer:Consumer"),
    Name("billiard.process.current_process()._parent_pid",
         "each child of a worker's pool counts as a producer, and runs a recorder",
         lambda _: hasattr(current_process(), "_parent_pid")),
    Name("Service.scheduler", _NO_ENTRY, "celery.beat:Service"),
    Name("Scheduler.apply_async", _NO_ENTRY, "celery.beat:Scheduler"),
    Name("Task._get_exec_options", "`rerun` does not see the queue that a task has as its attribute",
         "celery.app.task:Task"),
    Name("Task.__header__", "`rerun` does not check arguments", _tasks_have_headers),
    Name("amqp.router", "no task can be sent again", "celery.app.amqp:AMQP"),
    Name("Router.route", "no task can be sent again", "celery.app.routes:Router"),
    Name("conf.maps", _UNREADABLE, "celery.utils.collections:ConfigurationView"),
    Name("conf.prefix", _UNREADABLE, lambda app: "prefix" in app.conf.finalize().__dict__),
    Name("conf.finalize", _UNREADABLE, "celery.app.utils:Settings"),
)
# fmt: on
"""Without those that something public stands in for: `get_current_task`, `registered_tasks`."""


def missing(app: Any) -> list[Name]:
    """The names that the installed Celery does not have, by looking at it and the app. Raises nothing."""
    return [one for one in _NAMES if celery.VERSION[:2] >= one.since and not one.is_there(app)]


_told: set[str] = set()


def tell_missing(app: Any) -> None:
    """Log, once in a process, what is not there."""
    found = [one for one in missing(app) if one.name not in _told]
    if found:
        _told.update(one.name for one in found)
        logger.warning(
            "celery-asynctask: %s. All else is recorded. Install a release of celery-asynctask that knows this one.",
            "; ".join(map(str, found)),
        )
