"""``celery asynctask doctor``: is everything as it should be, and what to do if not?"""

from __future__ import annotations

from typing import Final

from celery_asynctask.cli.command import CommandContext, command
from celery_asynctask.cli.group import PROBLEM
from celery_asynctask.core.accounting import plural
from celery_asynctask.operations.doctor import Level, examine

_SIGNS: Final = {Level.OK: "✔", Level.NOTE: "•", Level.PROBLEM: "✖"}
_INDENT: Final = " " * 12


@command(
    "doctor",
    "doctor --json | jq 'select(.level == \"problem\")'",
    short="Check the setup and name remedies.",
)
def doctor(context: CommandContext) -> None:
    """Check configuration, database, journal, recorder and telemetry, and name a remedy for each problem.

    Run it where the workers run, as their user. Exits with 1 if there is a problem. It changes nothing: its trial write
    to the database is rolled back.
    """
    output = context.output
    count = dict.fromkeys(Level, 0)
    for found in examine(context.app, lambda: context.settings):
        count[found.level] += 1
        remedy = f"\n{_INDENT}{found.remedy}" if found.remedy else ""
        text = f"{_SIGNS[found.level]} {found.level.value:8}  {found.check}: {found.text}{remedy}"
        output.tell(found._asdict(), text)
    problems, notes = count[Level.PROBLEM], count[Level.NOTE]
    if not output.as_json:
        told = f"{problems:,} {plural(problems, 'problem')}, {notes:,} {plural(notes, 'note')}"
        output.line(f"\n{told[0].upper()}{told[1:]}." if problems or notes else "\nAll is well.")
    if problems:
        context.click.exit(PROBLEM)
