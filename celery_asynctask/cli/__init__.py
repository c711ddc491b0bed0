"""``celery asynctask``: what an operator types. Celery finds the group by the entry point ``celery.commands``."""

from __future__ import annotations

import click

from celery_asynctask.cli.command import URL, Commands
from celery_asynctask.cli.doctor import doctor
from celery_asynctask.cli.erase import erase
from celery_asynctask.cli.errors import errors
from celery_asynctask.cli.export import export
from celery_asynctask.cli.import_ import import_
from celery_asynctask.cli.list import list_tasks
from celery_asynctask.cli.openapi import openapi
from celery_asynctask.cli.purge import purge
from celery_asynctask.cli.recorder import recorder
from celery_asynctask.cli.rerun import rerun
from celery_asynctask.cli.schema import schema
from celery_asynctask.cli.serve import serve
from celery_asynctask.cli.show import show
from celery_asynctask.cli.stats import stats
from celery_asynctask.cli.token import token
from celery_asynctask.cli.top import top
from celery_asynctask.cli.tree import tree
from celery_asynctask.cli.upgrade import upgrade
from celery_asynctask.cli.verify import verify
from celery_asynctask.cli.why import why


@click.group("asynctask", cls=Commands)
@click.option("--url", metavar="URL", help="Database to look at in place of the app's asynctask_url.")
@click.pass_context
def asynctask(context: click.Context, url: str | None) -> None:
    """The record of what ran: celery-asynctask.

    Exit codes: 0 done; 1 a problem was found, or it could not be done; 2 wrong usage, settings or search; 3 the
    database cannot be reached or has not our tables; 130 interrupted.
    """
    context.meta[URL] = url


for command in (
    list_tasks,
    show,
    recorder,
    verify,
    tree,
    why,
    doctor,
    rerun,
    purge,
    export,
    import_,
    erase,
    upgrade,
    schema,
    stats,
    errors,
    top,
    serve,
    openapi,
    token,
):
    asynctask.add_command(command)
