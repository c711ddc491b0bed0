"""``celery asynctask upgrade``: the tables to the version that this release needs."""

from __future__ import annotations

import click

from celery_asynctask.cli.command import Look, options
from celery_asynctask.operations.migrate import upgrade as upgrade_tables
from celery_asynctask.operations.session import Writer


@click.command(
    epilog="""\b
Examples:
  celery -A proj asynctask upgrade
  celery -A proj asynctask --url postgresql+psycopg://admin@host/name upgrade
"""
)
@options()
def upgrade(look: Look) -> None:
    """Create the tables, or bring them to the version that this release needs, by its migrations.

    Needs celery-asynctask[migrations]. Tables that the recorder made are at the version of its release already. On
    PostgreSQL and SQLite it is done as a whole or not at all; on MySQL and MariaDB, run it again if it was stopped.
    """
    writer = Writer(look.settings)
    look.context.call_on_close(writer.close)
    done = upgrade_tables(writer)
    shown = look.settings.shown_url
    if look.output.as_json:
        applied = [version for version, _ in done.applied]
        look.output.json({"database": shown, "from": done.before, "to": done.after, "applied": applied})
        return
    for version, about in done.applied:
        look.output.line(f"{version}: {about}")
    if done.completed:
        look.output.line(f"The tables of {shown} were there without a version; they are complete, at {done.after}.")
    elif done.applied:
        look.output.line(f"The tables of {shown} are at version {done.after} now.")
    else:
        look.output.line(f"The tables of {shown} are at version {done.after}: nothing to do.")
