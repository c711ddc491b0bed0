"""``celery asynctask doctor``: check the setup, with a remedy for each problem."""

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
    for finding in examine(context.app, lambda: context.settings):
        count[finding.level] += 1
        remedy = f"\n{_INDENT}{finding.remedy}" if finding.remedy else ""
        text = f"{_SIGNS[finding.level]} {finding.level.value:8}  {finding.check}: {finding.text}{remedy}"
        output.tell(finding._asdict(), text)
    problems, notes = count[Level.PROBLEM], count[Level.NOTE]
    if not output.as_json:
        total = f"{problems:,} {plural(problems, 'problem')}, {notes:,} {plural(notes, 'note')}"
        output.line(f"\n{total}." if problems or notes else "\nAll is well.")
    if problems:
        context.click.exit(PROBLEM)
