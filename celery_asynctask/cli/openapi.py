"""``celery asynctask openapi``: the document of the HTTP API."""

from __future__ import annotations

import json

import click

from celery_asynctask.cli.serve import create


@click.command(
    epilog="""\b
Examples:
  celery -A proj asynctask openapi > openapi.json
"""
)
@click.pass_context
def openapi(context: click.Context) -> None:
    """Print the OpenAPI document of the HTTP API: what client generators read. Neither starts a server nor looks at
    the database."""
    api = create(context, loopback=False)
    click.echo(json.dumps(api.openapi(), indent=2, ensure_ascii=False))
