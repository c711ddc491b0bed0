"""The names of Celery, kombu and billiard that we rely on although they are private, or that we use in a way that no
documentation promises. No other module touches one; `tests/unit/capture/test_celery_private.py` tests what each does.

If a name is gone (a later Celery has renamed it), what it is for is not recorded, but everything else is: `missing`
finds it, a worker and beat log it once when they start, ``celery asynctask doctor`` reports it. The names are those of
Celery 5.5.0 and 5.7.0, kombu 5.5 and 5.7 and billiard 4.3; each says in which file of Celery it is.

Some are used directly, without this module:

=========================  ====================  ======================================================================
``Context.__dict__``       app/task.py           `publish`, `run`, `extract` and `current` keep values in it and read
                                                 fields of the request from it, several times for each task
``Request.request_dict``   worker/request.py     what a child is sent; `headers` puts each delivery's token into it
``Celery.close``           app/base.py           `closing` overrides it on the app, which ``with`` calls, too
``Task.bind``              app/task.py           `task` overrides it: it comes before a task can be sent (``__bound__``)
``conf.maps``, ``prefix``  utils/collections.py  the known settings, in `settings`, which cannot import this module
``LOG_LEVEL``              bin/base.py           an option's type, in `cli.recorder`
=========================  ====================  ======================================================================
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import celery
from billiard.process import current_process
from celery.app import utils
from kombu.utils import json

from celery_asynctask.capture.private_name import Name
from celery_asynctask.errors import logger

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["get_current_task"]

try:
    from celery._state import get_current_task  # the function itself: it is called for each task
except ImportError:

    def get_current_task() -> Any:
        """The task that runs in this thread; None: there is none. By Celery's public proxy, which is slower."""
        return celery.current_task or None


try:
    from celery._state import _task_stack
except ImportError:
    _task_stack = None


def executions_here() -> Iterator[tuple[Any, Any]]:
    """The executions in this thread, each with its task and request, the innermost first.

    Celery has a stack of tasks (_state.py), and each task a stack of its requests (app/task.py). A function of a task
    that is called directly is on both, too: with a copy of the task's request below it or, without one, a request that
    has no id.
    """
    depths: Counter[int] = Counter()
    for task in reversed(getattr(_task_stack, "stack", None) or ()):
        pushed = task.request_stack
        depths[id(pushed)] += 1
        depth, requests = depths[id(pushed)], pushed.stack
        if depth > len(requests):
            continue
        request = requests[-depth]
        if request.id is not None and all(below.id != request.id for below in requests[:-depth]):
            yield task, request


# -- publishing

SEND_TASK_MESSAGE: Final = "send_task_message"
"""A cached property of an app's AMQP (app/amqp.py): callers get what the instance's dict has under this name. They call
it with a producer, the task's name, a ``task_message`` (headers, properties, body, sent_event) and options, among them
``headers``, which override the message's."""


def amqp_of(app: Celery) -> Any:
    """The app's AMQP, without making it (app/base.py); None: it is not in use yet."""
    return app.__dict__.get("amqp")


def amqp_class(app: Celery) -> Any:
    """What the app makes its AMQP with on first use (app/base.py): a class, a function or the dotted name of one; None:
    apps have no such attribute."""
    return getattr(app, "amqp_cls", None)


def sends_messages(amqp: Any) -> bool:
    """Whether this AMQP has `SEND_TASK_MESSAGE`."""
    return SEND_TASK_MESSAGE in amqp.__dict__ or inspect.getattr_static(type(amqp), SEND_TASK_MESSAGE, None) is not None


def own_send_task_message(amqp: Any) -> Any:
    """``amqp.send_task_message`` as its class defines it, also a subclass of Celery's. Reads the configuration."""
    made = inspect.getattr_static(type(amqp), SEND_TASK_MESSAGE)
    if isinstance(made, functools.cached_property):
        return made.func(amqp)
    return made.__get__(amqp)


# -- attempts

ON_TASK_INIT: Final = "on_task_init"
"""A method of an app's loader. A tracer (app/trace.py) looks it up when it is built, and calls it with (task id, task)
after all receivers of task_prerun, right before the body, in every pool."""


def on_task_init_of(app: Celery) -> Any:
    """The hook of the app's loader as it is now; None: loaders have none."""
    return getattr(app.loader, ON_TASK_INIT, None)


def registered_tasks(app: Celery) -> Mapping[str, Any]:
    """The app's tasks by name, the live mapping (app/base.py): ``app.tasks`` without finalizing the app."""
    tasks: Mapping[str, Any] | None = getattr(app, "_tasks", None)
    return app.tasks if tasks is None else tasks


def build_tracers_again(app: Celery) -> None:
    """Make the tracers of a running worker look up `ON_TASK_INIT` again (``task.__trace__``, app/task.py)."""
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
_STRATEGY: Final = "celery.worker.strategy:default"


def context_of(request: Any) -> Any:
    """The Context that a worker's Request makes from its message, the same object each time (worker/request.py); None:
    it makes none, or there is no Request."""
    return getattr(request, "_context", None)


def is_acknowledged(request: Any) -> bool:
    """Whether the message of a worker's Request is acknowledged."""
    return bool(getattr(request, "acknowledged", False))


def started_at(request: Any) -> float | None:
    """When a child accepted a worker's Request, in seconds since the epoch; None: it has not, or that is not known."""
    return getattr(request, "time_start", None)


def is_stopping() -> bool:
    """Whether a worker in this process was requested to stop, by a signal or a command (worker/state.py)."""
    state = sys.modules.get("celery.worker.state")
    flags = (getattr(state, name, None) for name in ("should_stop", "should_terminate"))
    return any(flag is not None and flag is not False for flag in flags)


def has_own_strategy(task: Any) -> bool:
    """Whether a task says itself what a worker does with its messages (app/task.py, worker/strategy.py), so that they
    may run past Celery's tracer."""
    return bool(getattr(task, "Strategy", _STRATEGY) != _STRATEGY)


def has_own_tracer(pool: Any) -> bool:
    """Whether the tasks of a worker may run as coroutines: its pool, or what makes its tracers, is not Celery's."""
    from celery.app import trace

    build_tracer = getattr(trace, "build_tracer", None)
    modules = (type(pool).__module__, getattr(build_tracer, "__module__", trace.__name__))
    return not all(f"{module}.".startswith(("celery.concurrency.", f"{trace.__name__}.")) for module in modules)


def still_waits(request: Any) -> bool:
    """Whether a worker's Request was only received, and not started, acknowledged or revoked."""
    try:  # called for every message
        return request.time_start is None and not request.acknowledged and not request._already_revoked
    except AttributeError:
        names = ("time_start", "acknowledged", "_already_revoked")
        return not any(getattr(request, name, None) for name in names)


def hook_stored_results(callback: Callable[[Any, Mapping[str, Any]], object]) -> None:
    """Call back with (request, the result backend's entry) when a child stored its result and was killed before it
    could report it.

    Celery 5.7 then acknowledges the message as that of a task that succeeded, and sends no signal
    (celery/worker/request.py on_failure); earlier versions call the task failed. It checks this for lost children only.
    """
    from celery.worker.request import Request

    original = getattr(Request, _SUCCESS_WAS_STORED, None)
    if original is None or hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def success_was_stored(self: Any) -> Any:
        stored = original(self)
        if stored:
            callback(self, stored)
        return stored

    setattr(Request, _SUCCESS_WAS_STORED, success_was_stored)


def hook_decode_errors(consumer: Any, callback: Callable[[Any, Exception], object]) -> None:
    """Call back with (message, the decoder's exception) when a worker's consumer cannot decode a body: Celery sends no
    signal, it logs and acknowledges. It looks the method up for every message (worker/consumer/consumer.py).
    """
    decode_error = getattr(consumer, "on_decode_error", None)
    if decode_error is None:
        return

    def on_decode_error(message: Any, exc: Exception) -> Any:
        callback(message, exc)
        return decode_error(message, exc)

    consumer.on_decode_error = on_decode_error


def hook_entries(service: Any, decorator: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Decorate the method with which the scheduler of a beat service sends an entry, its first argument (beat.py)."""
    scheduler = getattr(service, "scheduler", None)
    if scheduler is not None and (send := getattr(scheduler, "apply_async", None)) is not None:
        scheduler.apply_async = decorator(send)


# -- reruns

read_envelopes: Final[Any] = json.loads
"""Parses JSON as Celery's consumers do (kombu/utils/json.py): ``{"__type__": ..., "__value__": ...}`` becomes a date,
a UUID, a Decimal or bytes. The function is documented, but not its envelopes."""


def options_of_task(task: Any) -> dict[str, Any]:
    """The options for publishing that a task has as attributes, such as its queue (app/task.py)."""
    options = getattr(task, "_get_exec_options", dict)
    return dict(options())


def argument_check(task: Any) -> Callable[..., Any] | None:
    """Celery's own check of a task's arguments (app/base.py), which raises `TypeError` if they do not fit; None: it
    makes none."""
    check = getattr(task, "__header__", None) if getattr(task, "typing", False) else None
    return check if callable(check) else None


def route(app: Any, options: dict[str, Any], name: str, args: object, kwargs: object, task: Any) -> dict[str, Any]:
    """The options with the queue, or exchange and routing key, that the app would send the task with (app/routes.py).
    Raises what the user's routers raise, and `AttributeError` if there is no router."""
    routed: dict[str, Any] = app.amqp.router.route(options, name, args, kwargs, task)
    return routed


# -- what other tools show of the configuration

FILTER: Final = "filter_hidden_settings"
_HIDES: Final = "hides_asynctask"
"""Attribute of ours, on a function that hides our settings, too."""


def hide_settings(hide: Callable[[Mapping[Any, Any]], Mapping[Any, Any]]) -> None:
    """Let ``hide`` go over a configuration before Celery hides what it takes for secrets, in `celery report` and
    `celery inspect conf`, whose answer Flower shows (app/utils.py). It goes over mappings inside of it, too."""
    original = getattr(utils, FILTER, None)
    if original is None or hasattr(original, _HIDES):
        return

    @functools.wraps(original)
    def filter_hidden_settings(conf: Mapping[Any, Any]) -> Any:
        return original(hide(conf))

    setattr(filter_hidden_settings, _HIDES, True)
    setattr(utils, FILTER, filter_hidden_settings)


# -- names that are gone


def _tasks_have_headers(app: Any) -> bool:
    known = registered_tasks(app).get("celery.backend_cleanup")
    return known is None or hasattr(known, "__header__")


_REQUEST: Final = "celery.worker.request:Request"
_NOT_SENT: Final = "no task is recorded as PENDING, and no context travels with tasks"
_NO_ENTRY: Final = "tasks that beat sends lack the name of their entry in the schedule"
# fmt: off
_NAMES: Final = (
    Name("app.amqp_cls", _NOT_SENT, lambda app: hasattr(app, "amqp_cls")),
    Name("amqp.send_task_message", _NOT_SENT, "celery.app.amqp:AMQP"),
    Name("Context.__dict__", "no start or end of a task is recorded",
         lambda _: hasattr(import_module("celery.app.task").Context(), "__dict__")),
    Name("loader.on_task_init", "no task is recorded as STARTED", lambda app: hasattr(app.loader, ON_TASK_INIT)),
    Name("celery.app.trace.build_tracer", "a worker that runs when recording is installed records no task as STARTED",
         "celery.app.trace"),
    Name("celery._state._task_stack.stack", "tasks that a task calls, eagerly or directly, have nothing of its context",
         lambda _: hasattr(_task_stack, "stack")),
    Name("Task.bind", "a RecordedTask does not switch recording on, only celery_asynctask.install(app) does",
         "celery.app.task:Task"),
    Name("app.configured", "install() does not refuse wrong settings, only a worker does when it starts",
         lambda app: hasattr(app, "configured")),
    Name("Request.request_dict",
         "no task is recorded as RECEIVED, and what a worker reports of a killed child counts as another attempt",
         _REQUEST),
    Name("Request._context", "what a worker reports of a killed child is not recorded", _REQUEST),
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
    Name("amqp.router", "no task can be rerun", "celery.app.amqp:AMQP"),
    Name("Router.route", "no task can be rerun", "celery.app.routes:Router"),
    Name("celery.app.utils.filter_hidden_settings",
         "`celery report` and `celery inspect conf` show the password in asynctask_url", "celery.app.utils"),
    Name("conf.prefix", "settings with a namespace cannot be read, and are taken for the default ones",
         lambda app: app.conf.keys() and hasattr(app.conf, "prefix")),
)
# fmt: on
"""Without the names for which there is a public substitute: `get_current_task`, `registered_tasks`."""


def missing(app: Any) -> list[Name]:
    """The names that the installed Celery, or the app, does not have. Raises nothing."""
    return [name for name in _NAMES if celery.VERSION[:2] >= name.since and not name.is_there(app)]


_logged: set[str] = set()


def log_missing(app: Any) -> None:
    """Log the names that are gone, each once in a process."""
    gone = [name for name in missing(app) if name.name not in _logged]
    if gone:
        _logged.update(name.name for name in gone)
        logger.warning(
            "celery-asynctask: %s. Everything else is recorded. Install a release of celery-asynctask that supports "
            "this version.",
            "; ".join(map(str, gone)),
        )
