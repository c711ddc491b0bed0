"""``celery asynctask``: what an operator types. Celery finds the group by the entry point ``celery.commands``."""

from __future__ import annotations

import click

from celery_asynctask.capture.celery_private import hide_settings
from celery_asynctask.cli.group import URL, Commands
from celery_asynctask.core.censor import censored

hide_settings(censored)  # `celery report` loads this, too, and perhaps nothing else of ours


@click.group("asynctask", cls=Commands, short_help="Search and manage the recorded tasks.")
@click.option("--url", metavar="URL", help="Database to use instead of the app's asynctask_url.")
@click.pass_context
def asynctask(context: click.Context, url: str | None) -> None:
    """Search the recorded tasks, rerun them, and manage the record.

    Exit codes: 0 done; 1 a problem was found, or the command failed; 2 wrong usage, settings or search; 3 the database
    cannot be reached or has no celery-asynctask tables; 130 interrupted.
    """
    context.meta[URL] = url
