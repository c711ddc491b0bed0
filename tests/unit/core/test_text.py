"""Sizes as texts."""

from __future__ import annotations

from celery_asynctask.core.text import amount


def test_amounts() -> None:
    assert [amount(size) for size in (0, 999, 1500, 250_000, 2_500_000_000)] == [
        "0 bytes",
        "999 bytes",
        "1.5 kB",
        "250 kB",
        "2.5 GB",
    ]
