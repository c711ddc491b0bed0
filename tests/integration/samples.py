"""A stored task with every value, and times as the HTTP API writes them."""

from __future__ import annotations

import datetime as dt
from typing import Any

from tests.integration.oracle import START as AT

SECOND = dt.timedelta(seconds=1)
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
UUID = "5f0c2a11-1111-4222-8333-444455556666"


def z(at: dt.datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


EVERYTHING: dict[str, Any] = {
    "name": "shop.refund",
    "status": "FAILURE",
    "customer": -5,
    "created_by": 2**63 - 1,
    "created_by_name": "Ada Lovelace, Countess",
    "error_type": "shop.NoMoney",
    "error_message": "no\nmoney",
    "retries": 3,
    "root_task_id": "root-1",
    "parent_task_id": "parent-1",
    "trace_id": TRACE,
    "span_id": SPAN,
    "started_at": AT + 2 * SECOND,
    "completed_at": AT + 5 * SECOND,
    "task_args": [1, "é"],
    "task_kwargs": {"account": {"id": 17}},
    "result": {"a": None},
    "content": {"note": "x"},
}
