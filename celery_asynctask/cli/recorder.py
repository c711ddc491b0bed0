"""``celery asynctask recorder``: the recorder as a process of its own."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

import click
from celery.bin.base import LOG_LEVEL

from celery_asynctask.errors import SettingsError
from celery_asynctask.journal import Directory
from celery_asynctask.recorder import Recorder
from celery_asynctask.settings import Settings

STOP_SECONDS = 10.0
"""How long the recorder may take to store what is there when it is told to stop; the rest stays in the journal."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@click.command()
@click.option("--once", is_flag=True, help="Store what is in the journal now, then exit: 1 if something is left.")
@click.option("-l", "--loglevel", default="INFO", type=LOG_LEVEL, help="Logging level.")
@click.pass_context
def recorder(context: click.Context, once: bool, loglevel: Any) -> None:
    """Store what the processes of this host record, until SIGTERM.

    Takes the work from recorders inside of workers and web processes, and leaves it to them when it ends. A second one
    of the same journal waits in reserve. A second signal ends it at once; nothing is lost by that.
    """
    app = context.obj.app
    app.log.setup(loglevel=loglevel, redirect_stdouts=False)
    try:
        settings = Settings.from_app(app)
        directory = Directory(settings.directory, settings.store_id)
    except SettingsError as exc:
        raise click.UsageError(str(exc)) from exc
    if not settings.enabled:
        raise click.UsageError("Nothing is recorded: asynctask_enabled is False.")
    told = threading.Event()

    def stop(received: int, _frame: object) -> None:
        if told.is_set():
            os._exit(128 + received)
        told.set()

    for number in SIGNALS:
        signal.signal(number, stop)
    worker = Recorder(settings, dedicated=True)
    worker.start(once=once)
    deadline = time.monotonic() + STOP_SECONDS
    elected = False
    while worker.is_running and not told.wait(0.05):
        elected = elected or worker.is_elected
        if once and not elected and time.monotonic() > deadline:
            raise click.ClickException("Another dedicated recorder is at work, or the election is held for too long.")
    failed = once and worker.in_trouble
    worker.stop(STOP_SECONDS)
    if once and (left := directory.waiting()):
        raise click.ClickException(f"{left} bytes are left in {directory.path}; the log says why.")
    sys.exit(1 if failed else 0)
