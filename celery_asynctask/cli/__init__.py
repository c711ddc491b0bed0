"""``celery asynctask``: what an operator types. Celery finds the group by the entry point ``celery.commands``."""

from __future__ import annotations

import click

from celery_asynctask.cli.group import URL, Commands


@click.group("asynctask", cls=Commands)
@click.option("--url", metavar="URL", help="Database to look at in place of the app's asynctask_url.")
@click.pass_context
def asynctask(context: click.Context, url: str | None) -> None:
    """The record of what ran: celery-asynctask.

    Exit codes: 0 done; 1 a problem was found, or it could not be done; 2 wrong usage, settings or search; 3 the
    database cannot be reached or has not our tables; 130 interrupted.
    """
    context.meta[URL] = url
