"""``celery asynctask verify``: is the record complete?"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final

import click

from celery_asynctask.cli.command import CommandContext, command
from celery_asynctask.cli.group import PROBLEM
from celery_asynctask.cli.output import Output
from celery_asynctask.core.accounting import Account, Ledger, counts, listed, plural
from celery_asynctask.errors import FilterError
from celery_asynctask.journal.survey import Survey, readable, survey_of
from celery_asynctask.present.ledger import verdict
from celery_asynctask.queries.completeness import completeness
from celery_asynctask.queries.search.filter import term

MAX_LISTED: Final = 1000
"""Processes that are listed for a person."""
_ABOUT: Final = ("source", "host", "pid", "role", "last_seen_at", "ended_at")
"""Of an account, beside its counts."""
_NUMBERS: Final = ("accepted>", "stored>", "journal>", "quarantined>", "dropped>", "missing>")
_COLUMNS: Final = ("source", "role", "last seen", *_NUMBERS, "because")


@command(
    "verify",
    "verify --since 2d --all",
    "verify --json | head -1",
    short="Check that the record is complete.",
)
@click.option("--since", metavar="TIME", help="Check only processes seen since then: 2d, or 2026-01-31.")
@click.option("--all", "everything", is_flag=True, help="List all processes, not only incomplete ones.")
def verify(context: CommandContext, since: str | None, everything: bool) -> None:
    """Check that the record is complete: account for every event that a process wrote.

    Exits with 0 only if nothing is missing, dropped or in quarantine, and no journal of this host is left without a
    recorder. With --json, the first line is the total, and each other line a process.
    """
    output = context.output
    moment = _moment(context, since) if since is not None else None
    survey = survey_of(context.settings.directory)
    with readable(context.settings.directory):
        found = completeness(context.reader, survey, since=moment, everything=everything)
    if output.as_json:
        ledger = found.ledger
        told = {"complete": ledger.complete, "processes": ledger.processes}
        output.json({**told, **counts(ledger), "unknown": dict(ledger.unknown)})
        for account in found.accounts:
            output.json({**{name: getattr(account, name) for name in _ABOUT}, **counts(account)})
    else:
        output.line(verdict(found.ledger))
        _list(output, found.accounts)
        for line in _advice(found.ledger, context.settings.directory, survey):
            output.line(line)
    if not found.ledger.complete:
        context.click.exit(PROBLEM)


def _moment(context: CommandContext, since: str) -> dt.datetime:
    """The time that ``since:`` means in a search."""
    moment = context.search((term("since", since),)).terms[0].values[0].value
    if not isinstance(moment, dt.datetime):
        raise FilterError("'since' must be a time or a duration before now.")
    return moment


def _list(output: Output, accounts: list[Account]) -> None:
    for host, group in groupby(accounts[:MAX_LISTED], key=lambda one: one.host):
        output.title(f"Host {output.show(host)}")
        output.table(
            _COLUMNS,
            (
                (
                    one.source,
                    one.role,
                    one.last_seen_at,
                    one.accepted,
                    one.stored,
                    "?" if one.in_journal is None else one.in_journal + one.damaged,
                    one.quarantined,
                    one.dropped_total,
                    one.missing,
                    ", ".join(sorted(one.dropped)) or None,
                )
                for one in group
            ),
        )
    if (more := len(accounts) - MAX_LISTED) > 0:
        output.hint(f"{more:,} more processes: --json lists them all.")


def _advice(ledger: Ledger, directory: Path, survey: Survey | None) -> Iterator[str]:
    if not ledger.complete:
        yield ""
    if ledger.waiting:
        yield (
            f"Nobody drains {directory}: start a worker on this host, or run `celery asynctask recorder --once` as the "
            "same user."
        )
    if ledger.missing:
        yield (
            "Missing events were in a segment that is gone: somebody removed it from the journal directory, or the "
            "disk lost it. Rows of that time may lack a start or an end."
        )
    if ledger.dropped:
        reasons = ", ".join(f"{count:,} for {reason}" for reason, count in ledger.dropped.most_common())
        yield (
            f"Dropped: {reasons}. `doctor` on that host looks at the disk, the directory's rights and "
            "asynctask_journal_max_bytes."
        )
    if ledger.quarantined or ledger.damaged:
        yield (
            "What is in quarantine stands in <source>.quarantine in the journal directory of that host: one event or "
            "damaged line a line; the recorder's log says why."
        )
    if ledger.unknown:
        count = ledger.unknown.total()
        yield (
            f"Not known here: what still lies in the {plural(count, 'journal')} of {count:,} "
            f"{plural(count, 'process')} on {listed(sorted(ledger.unknown))}. Run `verify` there."
        )
    if survey is None:
        yield f"This host has no journal directory {directory}."
