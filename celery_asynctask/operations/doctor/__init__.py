"""Checking an installation: what is configured, reachable and at work, and what to do where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Final

from celery_asynctask.core.text import reason
from celery_asynctask.errors import AsyncTaskError, SettingsError, StoreError
from celery_asynctask.operations.doctor import application, database, journal, telemetry, tokens
from celery_asynctask.operations.doctor.finding import Check, Finding, Level
from celery_asynctask.queries import Reader
from celery_asynctask.settings import Settings

__all__ = ["Finding", "Level", "examine"]

_DOCTOR: Final = Check("doctor")


def examine(app: Any, configured: Callable[[], Settings]) -> Iterator[Finding]:
    """Check everything, one finding after the other. ``configured`` returns the settings, or raises `SettingsError`, or
    what the user's configuration raises. Changes nothing and raises nothing."""
    settings: Settings | None = None
    try:
        settings = configured()
    except SettingsError as exc:
        yield application.wrong_configuration(exc)
    except Exception as exc:  # noqa: BLE001 - whatever the user's modules raise
        yield application.unreadable_configuration(exc)
    if settings is None:
        yield Check("database").note("Not checked, nor is the journal: the settings say where they are.")
    else:
        with closing(Reader(settings.url, settings.engine_options)) as reader:
            for check in (
                lambda: application.configuration(settings),
                lambda: application.names_of_celery(app),
                lambda: application.tasks(app, settings),
                lambda: database.database(settings, reader),
                lambda: tokens.tokens(settings, reader),
                lambda: journal.journal(settings),
                lambda: journal.recorder(settings),
                lambda: journal.backlog(settings, reader),
            ):
                yield from _guarded(check)
    yield from _guarded(lambda: telemetry.telemetry(settings))


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Run a check. One that fails must not hide what the others find."""
    try:
        yield from check()
    except AsyncTaskError as exc:
        problem, remedy = (exc.problem, exc.remedy) if isinstance(exc, StoreError) else (str(exc), "")
        yield _DOCTOR.problem(f"A check failed: {problem}", remedy or "Correct that, and run `doctor` again.")
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        yield _DOCTOR.problem(
            f"A check failed: {where}{reason(exc)}.", "Run `doctor` as the user of the workers, where they run."
        )
    except Exception as exc:  # noqa: BLE001 - the promise of this function
        yield _DOCTOR.problem(
            f"A check failed: {type(exc).__name__}: {reason(exc)}.",
            "Please report this with the versions of celery-asynctask, Celery and SQLAlchemy.",
        )
