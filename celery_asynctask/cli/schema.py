"""``celery asynctask schema``: the SQL of the tables, for those who run it themselves."""

from __future__ import annotations

import click

from celery_asynctask.cli.command import Look, options
from celery_asynctask.operations.migrate import statements


@click.command(
    epilog="""\b
Examples:
  celery -A proj asynctask schema | psql shop
  celery -A proj asynctask --url mysql:// schema > tables.sql
"""
)
@options(as_json=False)
def schema(look: Look) -> None:
    """Print the SQL that makes the tables and notes their version, for the app's kind of database; connects to none.

    Set asynctask_create_tables to False where the recorder has no right to make tables.
    """
    for statement in statements(look.settings.url):
        click.echo(f"{statement};\n")
