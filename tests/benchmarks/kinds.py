"""The kinds of tasks that the workers of `shop` run, and the ways in which they fail."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

_LIBRARY: Final = "/opt/venv/lib/python3.12/site-packages"
ENTRY: Final = (
    f"{_LIBRARY}/celery/app/trace.py:453:trace_task:R = retval = fun(*args, **kwargs)",
    f"{_LIBRARY}/celery/app/trace.py:736:__protected_call__:return self.run(*args, **kwargs)",
)


class Error(NamedTuple):
    """A way to fail."""

    type: str
    message: str
    """The text, with ``{n}`` for a number, ``{byte}`` for one below 256, ``{id}`` for a UUID, ``{hex}`` and
    ``{word}``."""
    frames: tuple[str, ...]
    """``path:line:function:code``, outermost first, below Celery's own."""


_GATEWAY = (
    "/srv/shop/billing/tasks.py:88:charge:gateway.post(order)",
    "/srv/shop/billing/gateway.py:41:post:send(body)",
)
ERRORS: Final = (
    Error(
        "ConnectionError",
        "HTTPSConnectionPool(host='gateway.example', port=443): Max retries exceeded with url: /charges/{n}",
        (
            *_GATEWAY,
            f"{_LIBRARY}/requests/sessions.py:724:send:r = adapter.send(request, **kwargs)",
            f"{_LIBRARY}/requests/adapters.py:700:send:raise ConnectionError(e, request=request)",
        ),
    ),
    Error("PaymentRefused", "Payment {id} of customer {n} was refused: insufficient funds (code {n})", _GATEWAY),
    Error(
        "IntegrityError",
        '(psycopg.errors.UniqueViolation) duplicate key value violates unique constraint "uq_invoice_number"\n'
        "DETAIL:  Key (number)=({n}) already exists.",
        (
            "/srv/shop/billing/tasks.py:131:invoice:session.commit()",
            f"{_LIBRARY}/sqlalchemy/orm/session.py:2032:commit:trans.commit(_to_root=True)",
            f"{_LIBRARY}/sqlalchemy/engine/default.py:943:do_execute:cursor.execute(statement, parameters)",
        ),
    ),
    Error("KeyError", "'{word}'", ("/srv/shop/catalog/tasks.py:57:store:price = prices[sku]",)),
    Error(
        "ValueError",
        "invalid literal for int() with base 10: '{word}'",
        ("/srv/shop/catalog/tasks.py:49:read:store(row)", "/srv/shop/catalog/rows.py:17:parse:return int(row[2])"),
    ),
    Error(
        "FileNotFoundError",
        "[Errno 2] No such file or directory: '/var/lib/shop/export/{n}/orders-{hex}.csv'",
        ("/srv/shop/report/tasks.py:22:build:with open(path) as file:",),
    ),
    Error(
        "SMTPServerDisconnected",
        "Connection to 10.0.0.{byte}:587 unexpectedly closed",
        ("/srv/shop/mail/tasks.py:30:send:smtp.send(message)", "/usr/lib/python3.12/smtplib.py:405:getreply:raise"),
    ),
)


class Spec(NamedTuple):
    """A kind of task."""

    name: str
    weight: int
    run: float
    """Median of its run time in seconds."""
    wait: float
    fails: float
    """Its share of all tasks."""
    retries: float
    errors: tuple[int, ...]
    queue: str
    kwargs: Callable[[random.Random], dict[str, Any]]


def _order(chance: random.Random) -> dict[str, Any]:
    return {"account_id": chance.randrange(5000), "amount": round(chance.random() * 500, 2), "currency": "EUR"}


def _mail(chance: random.Random) -> dict[str, Any]:
    return {"to": f"user{chance.randrange(90_000)}@mail.example", "template": chance.choice(("welcome", "receipt"))}


def _item(chance: random.Random) -> dict[str, Any]:
    number = chance.randrange(40_000)
    return {"item": {"sku": f"sku-{number}", "tags": ["new"] if number % 7 else []}, "force": number % 11 == 0}


def _report(chance: random.Random) -> dict[str, Any]:
    return {"month": f"2025-{chance.randrange(12) + 1:02d}", "rows": chance.randrange(100_000)}


SPECS: Final = (
    Spec("mail.send", 30, 0.3, 0.05, 0.02, 0.06, (6,), "mail", _mail),
    Spec("billing.charge", 14, 0.8, 0.1, 0.05, 0.1, (0, 1), "billing", _order),
    Spec("billing.invoice", 10, 0.2, 0.1, 0.01, 0.01, (2,), "billing", _order),
    Spec("billing.refund", 2, 0.6, 0.1, 0.08, 0.05, (0, 1), "billing", _order),
    Spec("catalog.import", 3, 2.0, 0.5, 0.03, 0.0, (4,), "catalog", _item),
    Spec("catalog.read", 9, 0.15, 0.4, 0.03, 0.01, (4,), "catalog", _item),
    Spec("catalog.store", 18, 0.04, 0.4, 0.02, 0.02, (3, 2), "catalog", _item),
    Spec("catalog.publish", 3, 0.1, 0.2, 0.01, 0.0, (3,), "catalog", _item),
    Spec("report.build", 2, 90.0, 3.0, 0.12, 0.0, (5,), "slow", _report),
    Spec("search.index", 9, 0.06, 0.02, 0.004, 0.02, (0,), "celery", _item),
)
BY_NAME: Final = {spec.name: spec for spec in SPECS}
ALONE: Final = [spec for spec in SPECS for _ in range(spec.weight)]
CHAIN: Final = tuple(BY_NAME[name] for name in ("billing.charge", "billing.invoice", "mail.send", "search.index"))
