"""``celery asynctask upgrade``: the tables to the version that this release needs; ``schema``: their SQL."""

from __future__ import annotations

import click

from celery_asynctask.cli.command import UTC, CommandContext, command
from celery_asynctask.operations.migrate import statements
from celery_asynctask.operations.migrate import upgrade as upgrade_tables


@command("upgrade", "--url postgresql+psycopg://admin@host/name upgrade")
def upgrade(context: CommandContext) -> None:
    """Create the tables, or bring them to the version that this release needs, by its migrations.

    Needs celery-asynctask[migrations]. Tables that the recorder made are at the version of its release already. On
    PostgreSQL and SQLite it is done as a whole or not at all; on MySQL and MariaDB, run it again if it was stopped.
    """
    done = upgrade_tables(context.writer(context.settings))
    shown = context.settings.shown_url
    if context.output.as_json:
        applied = [version for version, _ in done.applied]
        context.output.json({"database": shown, "from": done.before, "to": done.after, "applied": applied})
        return
    for version, about in done.applied:
        context.output.line(f"{version}: {about}")
    if done.completed:
        context.output.line(f"The tables of {shown} were there without a version; they are complete, at {done.after}.")
    elif done.applied:
        context.output.line(f"The tables of {shown} are at version {done.after} now.")
    else:
        context.output.line(f"The tables of {shown} are at version {done.after}: nothing to do.")


@command("schema | psql shop", "--url mysql:// schema > tables.sql", options=[UTC])
def schema(context: CommandContext) -> None:
    """Print the SQL that makes the tables and notes their version, for the app's kind of database; connects to none.

    Set asynctask_create_tables to False where the recorder has no right to make tables.
    """
    for statement in statements(context.settings.url):
        click.echo(f"{statement};\n")
