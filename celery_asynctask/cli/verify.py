"""``celery asynctask verify``: check that the record is complete."""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final

import click

from celery_asynctask.cli.command import CommandContext, ask, command
from celery_asynctask.cli.group import PROBLEM
from celery_asynctask.cli.output import Output
from celery_asynctask.core.accounting import Account, Ledger, by_host, counts, plural
from celery_asynctask.errors import FilterError
from celery_asynctask.journal.place import is_nowhere
from celery_asynctask.journal.survey import Survey, readable, survey_of
from celery_asynctask.operations.accept import accept_identity, give_up, to_accept
from celery_asynctask.operations.audit import Action
from celery_asynctask.present.ledger import verdict, written
from celery_asynctask.queries.completeness import completeness
from celery_asynctask.queries.search.filter import term

MAX_LISTED: Final = 1000
"""Processes listed for a person; ``--json`` lists all."""
MAX_HOSTS: Final = 10
"""Hosts listed for a person of which something is not known."""
_ABOUT: Final = ("source", "host", "pid", "role", "last_seen_at", "ended_at", "settled_at", "given_up_at")
"""Fields of an account that ``--json`` has beside its counts."""
_NUMBERS: Final = ("accepted>", "stored>", "journal>", "quarantined>", "dropped>", "missing>")
_COLUMNS: Final = ("source", "role", "last seen", *_NUMBERS, "because")
_SPARE: Final = ("role", "last seen", "accepted", "stored")
"""Columns that a narrow terminal leaves out, in this order."""


@command(
    "verify",
    "verify --since 2d --all",
    "verify --json | head -1",
    "verify --accept worker-7f9c",
    short="Check that the record is complete.",
)
@click.option("--since", metavar="TIME", help="Check only processes seen since then: 2d, or 2026-01-31.")
@click.option("--all", "everything", is_flag=True, help="List all processes, not only incomplete ones.")
@click.option("--accept", "host", metavar="HOST", help="Accept that nobody will know what its processes did last.")
@click.option("--accept-database", is_flag=True, help="Accept that another database has the record from now on.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def verify(
    context: CommandContext, since: str | None, everything: bool, host: str | None, accept_database: bool, yes: bool
) -> None:
    """Check that the record is complete: account for every event that a process wrote.

    There are three answers. "Complete": each event is stored, or in a journal that a recorder drains. "Not complete":
    events are missing, dropped or in quarantine, or lie in a journal of this host that nobody drains. "Not known": a
    host fell silent, or a process ended, before it was known to have stored all. Exits with 0 only for the first. With
    --json, the first line is the total, and each other line a process.

    If such a host is gone for good, --accept notes that its last deeds will never be known, and the next answer only
    names it. If it is heard again, that is taken back.

    A journal goes into the database that it has met first, and into no other that has the same address.
    --accept-database says that the present one has taken its place.
    """
    if host is not None and accept_database:
        raise click.UsageError("Give either --accept or --accept-database.")
    if accept_database:
        _accept_database(context, yes)
        return
    if host is not None:
        _accept(context, host, yes)
        return
    output = context.output
    moment = _moment(context, since) if since is not None else None
    survey = survey_of(context.settings.directory)
    with readable(context.settings.directory):
        result = completeness(context.reader, survey, since=moment, everything=everything)
    if output.as_json:
        ledger = result.ledger
        output.json(
            {
                "complete": ledger.complete,
                "answer": ledger.answer,
                "processes": ledger.processes,
                **counts(ledger),
                "unknown": by_host(ledger.unknown),
                "accepted_unknown": by_host(ledger.accepted_unknown),
            }
        )
        for account in result.accounts:
            output.json(
                {**{name: getattr(account, name) for name in _ABOUT}, **counts(account), "known": not account.unheard}
            )
    else:
        output.line(verdict(result.ledger))
        _list(output, result.accounts)
        for line in _advice(result.ledger, context.settings.directory, survey):
            output.line(line)
    if not result.ledger.complete:
        context.click.exit(PROBLEM)


def _accept(context: CommandContext, host: str, yes: bool) -> None:
    output = context.output
    survey = survey_of(context.settings.directory)
    with readable(context.settings.directory):
        accounts = completeness(context.reader, survey).accounts
    context.reader.close()  # it has found the tables
    writer = context.writer(context.settings)
    found = to_accept(writer, host, accounts, output.now)
    since = written(min(account.last_seen_at for account in found))
    processes = f"{len(found):,} {plural(len(found), 'process')}"
    ask(f"Accept that nobody will know what {processes} of {host} did after {since}?", yes, "with `verify`")
    with context.operation(Action.ACCEPT, f"host {host}") as operation:
        count = give_up(writer, found, output.now)
        operation.detail = f"{count:,} {plural(count, 'process')}, unheard since {since}"
    output.tell(
        {"host": host, "processes": count, "since": min(account.last_seen_at for account in found)},
        f"Accepted: nobody will know what {count:,} {plural(count, 'process')} of {host} did after {since}.",
    )


def _accept_database(context: CommandContext, yes: bool) -> None:
    shown = context.settings.shown_url
    question = f"Accept that {shown} has taken the place of the database in which this journal was stored so far?"
    ask(question, yes, "with `doctor`")
    with context.operation(Action.ACCEPT, f"database {shown}") as operation:
        accept_identity(context.settings)
        operation.detail = f"journal {context.settings.directory}"
    context.output.tell(
        {"database": shown, "journal": str(context.settings.directory)},
        f"Accepted: the journal in {context.settings.directory} is stored in {shown} from now on.",
    )


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
            "disk. Or they were in the memory of a process that was killed while its disk took nothing. Rows of that "
            "time may lack a start or an end."
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
            "lines of segments. The recorder's log says why. There, `quarantine list` shows them, `quarantine replay` "
            "tries again to store them, and `quarantine drop` gives them up."
        )
    for host, one in sorted(ledger.unknown.items())[:MAX_HOSTS]:
        yield (
            f"Not known: {host} ({one.processes:,} {plural(one.processes, 'process')}), not heard since "
            f"{written(one.since)}. Start a recorder there, and let it reach the database. If it is gone for good, run "
            f"`verify --accept {shlex.quote(host)}`."
        )
    if (others := len(ledger.unknown) - MAX_HOSTS) > 0:
        yield f"{others:,} more {plural(others, 'host')}: --json lists all."
    if is_nowhere(directory):
        yield (
            "No journal was read, because there is no place for one where this user can write: run this as the user of "
            "the workers, or set HOME or asynctask_journal_dir."
        )
    elif survey is None:
        yield f"This host has no journal directory {directory}."
