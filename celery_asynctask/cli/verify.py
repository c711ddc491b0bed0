"""``celery asynctask verify``: check that the record is complete."""

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
from celery_asynctask.journal.place import is_nowhere
from celery_asynctask.journal.survey import Survey, readable, survey_of
from celery_asynctask.present.ledger import verdict
from celery_asynctask.queries.completeness import completeness
from celery_asynctask.queries.search.filter import term

MAX_LISTED: Final = 1000
"""Processes listed for a person; ``--json`` lists all."""
_ABOUT: Final = ("source", "host", "pid", "role", "last_seen_at", "ended_at")
"""Fields of an account that ``--json`` has beside its counts."""
_NUMBERS: Final = ("accepted>", "stored>", "journal>", "quarantined>", "dropped>", "missing>")
_COLUMNS: Final = ("source", "role", "last seen", *_NUMBERS, "because")
_SPARE: Final = ("role", "last seen", "accepted", "stored")
"""Columns that a narrow terminal leaves out, in this order."""


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
        result = completeness(context.reader, survey, since=moment, everything=everything)
    if output.as_json:
        ledger = result.ledger
        total = {"complete": ledger.complete, "processes": ledger.processes}
        output.json({**total, **counts(ledger), "unknown": dict(ledger.unknown)})
        for account in result.accounts:
            output.json({**{name: getattr(account, name) for name in _ABOUT}, **counts(account)})
    else:
        output.line(verdict(result.ledger))
        _list(output, result.accounts)
        for line in _advice(result.ledger, context.settings.directory, survey):
            output.line(line)
    if not result.ledger.complete:
        context.click.exit(PROBLEM)


def _moment(context: CommandContext, since: str) -> dt.datetime:
    """The time that ``since:`` means in a search."""
    moment = context.search((term("since", since),)).terms[0].values[0].value
    if not isinstance(moment, dt.datetime):
        raise FilterError("'since' must be a time or a duration before now.")
    return moment


def _list(output: Output, accounts: list[Account]) -> None:
    for host, group in groupby(accounts[:MAX_LISTED], key=lambda account: account.host):
        output.title(f"Host {output.show(host)}")
        output.table(
            _COLUMNS,
            (
                (
                    account.source,
                    account.role,
                    account.last_seen_at,
                    account.accepted,
                    account.stored,
                    "?" if account.in_journal is None else account.in_journal + account.damaged,
                    account.quarantined,
                    account.dropped_total,
                    account.missing,
                    ", ".join(sorted(account.dropped)) or None,
                )
                for account in group
            ),
            spare=_SPARE,
        )
    if (others := len(accounts) - MAX_LISTED) > 0:
        output.hint(f"{others:,} more {plural(others, 'process')}: --json lists all.")


def _advice(ledger: Ledger, directory: Path, survey: Survey | None) -> Iterator[str]:
    if not ledger.complete:
        yield ""
    if ledger.waiting:
        yield (
            f"No recorder drains {directory}: start a worker on this host, or run `celery -A APP asynctask recorder "
            "--once` as the same user."
        )
    if ledger.missing:
        yield (
            "Missing events were in a segment that is gone: it was removed from the journal directory, or lost by the "
            "disk. Rows of that time may lack a start or an end."
        )
    if ledger.dropped:
        reasons = ", ".join(f"{count:,} for {reason}" for reason, count in ledger.dropped.most_common())
        yield (
            f"Dropped: {reasons}. Run `doctor` on that host: it checks the disk, the directory's rights and "
            "asynctask_journal_max_bytes."
        )
    if ledger.quarantined or ledger.damaged:
        yield (
            "Events in quarantine are in <source>.quarantine in the journal directory of that host, with the damaged "
            "lines of segments. The recorder's log says why."
        )
    if ledger.unknown:
        count = ledger.unknown.total()
        yield (
            f"Not visible here: the {plural(count, 'journal')} of {count:,} {plural(count, 'process')} on "
            f"{listed(sorted(ledger.unknown))}. Run `verify` there."
        )
    if is_nowhere(directory):
        yield (
            "No journal was read, because there is no place for one where this user can write: run this as the user of "
            "the workers, or set HOME or asynctask_journal_dir."
        )
    elif survey is None:
        yield f"This host has no journal directory {directory}."
