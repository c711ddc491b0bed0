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

from celery_asynctask.cli.command import say_defaults
from celery_asynctask.cli.group import URL, examples
from celery_asynctask.errors import SettingsError
from celery_asynctask.journal import Directory
from celery_asynctask.operations.session import Writer
from celery_asynctask.recorder import Recorder
from celery_asynctask.settings import Settings

STOP_SECONDS = 10.0
"""How long the recorder may store what is there after a signal to stop; the rest stays in the journal."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@click.command(
    short_help="Run the recorder as its own process.",
    epilog=examples("recorder", "recorder --once", "recorder -l DEBUG"),
)
@click.option("--once", is_flag=True, help="Store what is in the journal now and exit, with 1 if some is left.")
@click.option("-l", "--loglevel", default="INFO", type=LOG_LEVEL, help="Logging level.")
@click.pass_context
def recorder(context: click.Context, once: bool, loglevel: Any) -> None:
    """Store what the processes of this host record, until SIGTERM.

    It takes over from the recorders in workers and web processes, and they resume when it ends. A second one for the
    same journal stands by. A second signal ends it at once, and nothing is lost.
    """
    if context.meta.get(URL):
        raise SettingsError(
            "The recorder stores where the app's processes record to, whatever --url says: set asynctask_url in the "
            "app's configuration."
        )
    app = context.obj.app
    app.log.setup(loglevel=loglevel, redirect_stdouts=False)
    settings = Settings.from_app(app)
    say_defaults(context)
    if not settings.enabled:
        raise SettingsError("Nothing is recorded: asynctask_enabled is False. Set it to True, and start this again.")
    _ = Writer(settings).engine  # one that can never be used is refused here, not logged again and again
    directory = Directory(settings.directory, settings.store_id)
    stopped = threading.Event()

    def stop(received: int, _frame: object) -> None:
        if stopped.is_set():
            os._exit(128 + received)
        stopped.set()

    for number in SIGNALS:
        signal.signal(number, stop)
    worker = Recorder(settings, dedicated=True)
    worker.start(once=once)
    deadline = time.monotonic() + STOP_SECONDS
    elected = False
    while worker.is_running and not stopped.wait(0.05):
        elected = elected or worker.is_elected
        if once and not elected and time.monotonic() > deadline:
            raise click.ClickException(
                "Another dedicated recorder is at work, or the election takes too long. Stop that one, or try again."
            )
    failed = once and worker.in_trouble
    worker.stop(STOP_SECONDS)
    if once and (left := directory.waiting()):
        raise click.ClickException(
            f"{left} bytes are left in {directory.path}. Look for the reason in the log, and run this again."
        )
    sys.exit(1 if failed else 0)
