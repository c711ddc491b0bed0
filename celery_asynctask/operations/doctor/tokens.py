"""Checks of the tokens: whether they can be read, which end soon, and which nobody uses."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from celery_asynctask.core.accounting import listed
from celery_asynctask.core.tokens import Token
from celery_asynctask.errors import SettingsError, StoreError
from celery_asynctask.operations.doctor.finding import Check, Finding
from celery_asynctask.operations.tokens import reader_of
from celery_asynctask.queries import Reader
from celery_asynctask.queries.credentials import last_uses
from celery_asynctask.settings import Settings

SOON: Final = dt.timedelta(days=14)
UNUSED: Final = dt.timedelta(days=90)
_TOKENS: Final = Check("tokens")
_SHOWN: Final = 10


def tokens(settings: Settings, reader: Reader) -> Iterator[Finding]:
    """All checks of the tokens; nothing where none are configured."""
    if settings.tokens is None:
        return
    try:
        found = list(reader_of(settings.tokens)().values())
    except SettingsError as exc:
        yield _TOKENS.note(str(exc), "Where a server runs, nobody is let in by a token. Elsewhere none are needed.")
        return
    now = dt.datetime.now(dt.timezone.utc)
    expired = [token.name for token in found if token.is_expired(now)]
    ending = [token.name for token in found if token.name not in expired and token.is_expired(now + SOON)]
    if expired:
        yield _TOKENS.note(f"Expired: {listed(expired, _SHOWN)}.", "Remove them from asynctask_tokens.")
    if ending:
        yield _TOKENS.note(
            f"Expire within {SOON.days} days: {listed(ending, _SHOWN)}.",
            "Create others with `celery -A APP asynctask token`, and give them to their holders.",
        )
    unused = list(_unused([token for token in found if token.name not in expired], reader, now))
    if unused:
        yield _TOKENS.note(
            f"Not used for {UNUSED.days} days: {listed(unused, _SHOWN)}.",
            "Remove those that nobody needs: `celery -A APP asynctask tokens` shows when each was used.",
        )
    if not (expired or ending or unused):
        yield _TOKENS.ok(f"{len(found):,} configured.")


def _unused(found: list[Token], reader: Reader, now: dt.datetime) -> Iterator[str]:
    with suppress(StoreError):  # which the checks of the database report
        uses = last_uses(reader)
        for token in found:
            at = uses.get(token.key, token.created)
            if at is not None and now - at > UNUSED:
                yield token.name
