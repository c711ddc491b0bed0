"""Runs commands in the process of the tests: each one sees it as a process that has just begun, and leaves it as it
was."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from celery import _state
from celery.app.log import Logging
from kombu.transport import memory, virtual
from kombu.utils import encoding

from celery_asynctask import uninstall
from tests.environment import variables

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def isolated(directory: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Commands run here in ``directory``, with these variables in addition to those of the tests."""
    assert not [name for name in environment if name.startswith("PYTHON")], "Python looks at it when it begins"
    with ExitStack() as stack:
        stack.enter_context(_threads())
        stack.enter_context(variables(environment))
        stack.enter_context(_modules(directory))
        for one in (_signals, _logging, _collector, _broker, _apps):
            stack.enter_context(one())
        yield


def leave(apps: set[Any]) -> None:
    """Do for the apps what the exit of their process does: store their recorded events."""
    for app in apps:
        uninstall(app)
        app.close()


@contextmanager
def _apps() -> Iterator[None]:
    """Which app is the current one, and what happens to every future app (``shared_task``)."""
    current, default = _state._tls.current_app, _state.default_app
    apps, finalizers = set(_state._apps), set(_state._on_app_finalizers)
    _state._tls.current_app = _state.default_app = None
    try:
        yield
    finally:
        leave(set(_state._apps) - apps)
        _state._tls.current_app, _state.default_app = current, default
        _state._on_app_finalizers &= finalizers


@contextmanager
def _broker() -> Iterator[None]:
    """Messages sent to ``memory://`` stay in the process that sends them."""
    with (
        mock.patch.object(memory.Channel, "queues", {}),
        mock.patch.object(memory.Transport, "global_state", virtual.BrokerState()),
    ):
        yield


@contextmanager
def _modules(directory: Path) -> Iterator[None]:
    """The working directory, without loaded modules of it; none is taken for an earlier module of the same name."""
    before, loaded, path, writes = Path.cwd(), dict(sys.modules), list(sys.path), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    os.chdir(directory)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        os.chdir(before)
        sys.dont_write_bytecode = writes
        sys.path[:] = path
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if name not in loaded and file and Path(file).is_relative_to(directory):
                del sys.modules[name]
        sys.modules.update(loaded)
        sys.path_importer_cache.pop(str(directory), None)


@contextmanager
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _logging() -> Iterator[None]:
    """Logging as if nobody had configured it: warnings go to standard error. Celery's own commands configure it only
    once in a process."""
    before = {one: (list(one.handlers), one.level, one.propagate) for one in _loggers()}
    root = logging.getLogger()
    root.handlers[:] = []
    root.setLevel(logging.WARNING)
    with (
        warnings.catch_warnings(),
        mock.patch.object(Logging, "_setup", False),
        mock.patch.object(encoding, "default_encoding_file", None),
    ):
        try:
            yield
        finally:
            logging.captureWarnings(False)
            for one in _loggers():
                handlers, level, one.propagate = before.get(one, ([], logging.NOTSET, True))
                one.handlers[:] = handlers
                if one.level != level:  # each setting costs a turn over all loggers
                    one.setLevel(level)


def _loggers() -> list[logging.Logger]:
    there = logging.getLogger().manager.loggerDict.values()
    return [logging.getLogger(), *(one for one in there if isinstance(one, logging.Logger))]


@contextmanager
def _collector() -> Iterator[None]:
    """``serve`` hides all present objects from the collector; here they would stay hidden."""
    with mock.patch.object(gc, "freeze"):
        yield


@contextmanager
def _threads() -> Iterator[None]:
    """None is left."""
    before = set(threading.enumerate())
    yield
    assert not set(threading.enumerate()) - before
