"""``celery asynctask upgrade``: the tables to the version that this release needs; ``schema``: their SQL."""

from __future__ import annotations

import click

from celery_asynctask.cli.command import UTC, CommandContext, command
from celery_asynctask.operations.migrate import statements
from celery_asynctask.operations.migrate import upgrade as upgrade_tables


@command(
    "upgrade",
    "--url postgresql+psycopg://admin@db/shop upgrade",
    short="Create or upgrade the tables.",
)
def upgrade(context: CommandContext) -> None:
    """Create the tables, or upgrade them to the version that this release needs.

    Needs celery-asynctask[migrations]. Tables that a recorder created have the version of its release already. On
    PostgreSQL and SQLite, an upgrade is done completely or not at all; on MySQL and MariaDB, run it again if it was
    interrupted.
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


@command(
    "schema | psql -1 shop",
    "--url mysql:// schema > tables.sql",
    short="Print the SQL that creates the tables.",
    options=[UTC],
)
def schema(context: CommandContext) -> None:
    """Print the SQL that creates the tables and records their version.

    It is for the kind of database that the app has; nothing connects to it. It has no BEGIN and COMMIT, so that a
    migration of yours can run it (RunSQL in Django, op.execute in Alembic); `psql -1` runs it as one transaction. Set
    asynctask_create_tables to False where the recorder may not create tables.
    """
    for statement in statements(context.settings.url):
        click.echo(f"{statement};\n")
