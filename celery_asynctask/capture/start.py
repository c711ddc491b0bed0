"""Records the start of attempts, in the process that runs the body, and follows those that run as coroutines.

The start comes from the app's loader: Celery calls its ``on_task_init`` after all receivers of task_prerun, in every
pool, for tasks of any class (celery/app/trace.py), so the span that is current then is the one that the body sees.
"""

from __future__ import annotations

from functools import partial
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, cast

from billiard.exceptions import SoftTimeLimitExceeded
from celery import signals

from celery_asynctask.capture import context, extract, publish, step_events, tracing
from celery_asynctask.capture.attempt import SLOT, START
from celery_asynctask.capture.attribute import attribute
from celery_asynctask.capture.celery_private import ON_TASK_INIT, build_tracers_again, on_task_init_of
from celery_asynctask.capture.continuation import Before, note_steps
from celery_asynctask.capture.headers import HEADER, header_of, stamp, with_token
from celery_asynctask.capture.instrumentation import Instrumentation, instrumentation_of, is_worker
from celery_asynctask.capture.running import caller, follow, is_nested, leave, running
from celery_asynctask.capture.signing import SIGNED, believed, is_verified, settle, without_claims
from celery_asynctask.core import canvas
from celery_asynctask.core.event import Event, count, decode
from celery_asynctask.core.keys import attempt_key
from celery_asynctask.core.time import now
from celery_asynctask.errors import guard, report

if TYPE_CHECKING:
    from celery import Celery
    from celery.exceptions import Retry

_eager: dict[int, tuple[Any, dict[str, Any]]] = {}
"""Our headers of the latest eager attempts, each with the attempt's ``delivery_info``, by that one's `id`:
`on_internal_error` gets the original request, without the token that we gave the attempt. Several attempts may have
one task id at a time, but Celery makes each a ``delivery_info`` of its own."""
_EAGER_KEPT = 256


UNDO: Final = attribute("undo")
"""Attribute of an attempt's request: functions to call when it ends, the last one first."""


class _TaskInit:
    """Replaces a loader's ``on_task_init``, and calls it first."""

    def __init__(self, original: Any) -> None:
        self.original = original

    def __call__(self, task_id: str, task: Any) -> Any:
        result = self.original(task_id, task)
        on_task_init(task_id, task)
        return result


def wrap(app: Celery) -> None:
    """Record every attempt of the app's tasks that starts from now on."""
    original = on_task_init_of(app)
    if original is not None:
        app.loader.__dict__[ON_TASK_INIT] = _TaskInit(original)
        build_tracers_again(app)


def unwrap(app: Celery) -> None:
    """Undo `wrap`."""
    if isinstance(app.loader.__dict__.get(ON_TASK_INIT), _TaskInit):
        del app.loader.__dict__[ON_TASK_INIT]
        build_tracers_again(app)


def on_task_init(task_id: str, task: Any) -> None:
    """Record the start of an attempt. Celery's loader calls this after every receiver of task_prerun and right before
    the body: an instrumentation that makes a span for the attempt has made it by now, in whatever order the receivers
    were connected.

    The loader may be another app's: a task belongs to the app that it was registered with last (Celery.register_task),
    which is where its end is recorded, and a worker of any app that it was registered with runs it. A loader that two
    apps share calls this twice.
    """
    try:
        instrumentation = instrumentation_of(task.app)
        if instrumentation is None or not instrumentation.settings.enabled:
            return
        request = task.request_stack.top
        here = request is not None
        if request is None and (request := request_of(task_id)) is None:
            return
        known = request.__dict__
        # The loader has called before, or somebody has called a tracer directly, for an attempt without an id.
        if START in known or known.get("id") is None:
            return
        start(instrumentation, task, request, here=here)
    except SoftTimeLimitExceeded:
        raise
    except Exception as exc:  # noqa: BLE001 - as `guard` does, whose own call would cost every task
        report("on_task_init", task_id, exc)


def follow_coroutines(*, enable: bool = True) -> None:
    """Follow each execution of this worker from now on, or no longer."""
    if enable:
        signals.task_prerun.connect(on_task_prerun, weak=False, dispatch_uid=_FOLLOWS)
    else:
        signals.task_prerun.disconnect(dispatch_uid=_FOLLOWS)


_FOLLOWS: Final = "celery_asynctask.on_task_prerun"


@guard
def on_task_prerun(task_id: str, task: Any, **_: Any) -> None:
    """Follow an execution. Received only in a worker whose tracers are not Celery's: they run bodies in coroutines, or
    in other threads, that have no stack of their own, but a copy of the context of here."""
    request = task.request_stack.top
    if request is not None and request.id == task_id:
        _follow(task, request)


def _follow(task: Any, request: Any) -> None:
    request.__dict__.setdefault(UNDO, []).append(partial(leave, follow(task, request)))


def request_of(task_id: str) -> Any:
    """The request of this task's execution, of which this is a coroutine or another thread; None: it is not."""
    run = running()
    return run[1] if run is not None and run[1].id == task_id else None


def start(instrumentation: Instrumentation, task: Any, request: Any, *, here: bool = True) -> None:
    """Record that the body of ``task`` starts for ``request``, a Context with an id. ``here``: `finish` is called in
    the same thread."""
    name, known = task.name, request.__dict__
    ids, attached = tracing.attach(request)
    if attached is not None and here:
        known.setdefault(UNDO, []).append(partial(tracing.detach, attached))
    policy = instrumentation.policies[name]
    if (keys := instrumentation.settings.header_keys) is not None:
        if request.is_eager:
            _settle_eager(request)
        else:
            settle(known, request.id, keys)
    if request.is_eager:
        if policy.recorded:
            _inherit(instrumentation, request)
            known.setdefault(UNDO, [])  # so that `on_postrun` looks for a retry
        if is_nested(request):
            _follow(task, request)
    steps = None
    if request.chain or request.chord or request.callbacks:
        note_steps(request, steps := step_events.steps_of(request))
    if not policy.recorded:
        return
    at = time_ns() // 1000
    started = known[START] = extract.start(instrumentation, policy, name, request, at, ids)
    known[SLOT] = instrumentation.begin(started)
    if ids is not None:
        about = cast("Event", {**extract.delivery(request), **extract.execution(header_of(request))})
        tracing.describe(request.id, request.root_id, request.parent_id, attempt_key(about))
    if steps:
        _plan(instrumentation, request, started, believed(instrumentation, request, steps))


def begin(instrumentation: Instrumentation, task: Any, request: Any) -> bool:
    """`start` and follow an execution that no tracer of Celery's has started; False: it runs already."""
    innermost = running()
    if START in request.__dict__ or (innermost is not None and innermost[1].id == request.id):
        return False
    try:
        start(instrumentation, task, request)
        _follow(task, request)
    except BaseException:
        finish(request)
        raise
    return True


def finish(request: Any) -> None:
    """Undo what `start` and `begin` have done to the thread or coroutine."""
    for undo in reversed(request.__dict__.pop(UNDO, ())):
        undo()


def _plan(instrumentation: Instrumentation, request: Any, start: bytes, steps: list[canvas.Step]) -> None:
    """Record the steps behind the task, if its producer has not done so, or did not know what it said."""
    if count(request.retries):
        return
    header = header_of(request)
    is_told = "created" in header and "blind" not in header and not request.is_eager
    if not is_told:
        for planned in step_events.planned(instrumentation, decode(start), steps):
            instrumentation.record(planned)
    # Also of a producer that knows this task: it may not know those.
    if "created" in header and not all(instrumentation.records(step.name) for step in steps):
        for unrecorded in step_events.unrecorded(instrumentation, decode(start), steps):
            instrumentation.record(unrecorded)


def _settle_eager(request: Any) -> None:
    """`signing.settle` for an eager attempt, whose header is given here, unless a message pretends to be one."""
    header, outer = header_of(request), caller(request)
    if request.retries and "run" in header:  # handed on, see `hand_on`
        is_believed = is_verified(header)
    else:
        is_believed = is_verified(header_of(outer[1])) if outer is not None else not is_worker()
    fields = header if is_believed else without_claims(header)
    setattr(request, HEADER, {**fields, "here": SIGNED if is_believed else ()})


def _inherit(instrumentation: Instrumentation, request: Any) -> None:
    """Give an eager attempt, which has no message, the header that its message would have had. What `apply` was given
    as headers may be another task's."""
    outer = (caller(request) or (None, None))[1]
    given = header_of(request)
    goes_on = None
    if request.retries and "run" in given:  # handed on, see `hand_on`
        goes_on = Before(given, is_same=True, keeps_customer=True)
    at = now()
    fields = publish.fields(instrumentation, request.id, outer, given, goes_on)
    if goes_on is None and outer is not None and outer.id == request.id:
        around = header_of(outer)
        if context.identity(fields) == context.identity(around):  # it replaces the one around it
            goes_on = Before(around, is_same=True, keeps_customer=True)
    header = stamp(request.id, at if goes_on is None else goes_on.header.get("created"), at)
    del header["sent"]
    header |= context.to_header(fields, instrumentation.encoder)
    header["here"] = given.get("here", ())
    setattr(request, HEADER, header)
    _keep(request, with_token(request, header, at))


def hand_on(request: Any, retry: Retry) -> None:
    """Give our header of an eager attempt to its retry, which Celery starts from the signature in the `Retry`."""
    if request.is_eager and retry.sig is not None and HEADER in request.__dict__:
        headers = retry.sig.options.get("headers")
        retry.sig.set(headers={**(headers or {}), HEADER: request.__dict__[HEADER]})


def _keep(request: Any, header: dict[str, Any]) -> None:
    """Keep the header of an eager attempt, and at least the latest `_EAGER_KEPT`; other threads may do so meanwhile."""
    if (info := request.delivery_info) is None:
        return
    _eager.pop(id(info), None)  # so that it becomes the latest
    _eager[id(info)] = info, header
    if len(_eager) >= 2 * _EAGER_KEPT:
        for old in list(_eager)[:-_EAGER_KEPT]:
            _eager.pop(old, None)


def eager_header(request: Any) -> dict[str, Any]:
    """Our header of an eager attempt that started lately, by its original request; empty: it is not known."""
    return _eager.get(id(request.delivery_info), (None, {}))[1]
