"""Microseconds per call of the encoder: ``python -m tests.benchmarks.payload``. Run it on a quiet machine."""

from __future__ import annotations

import timeit
from typing import Any

from celery_asynctask.payload import Encoder
from celery_asynctask.payload.redaction import Redaction

NOTE = ("lorem ipsum dolor sit amet " * 4)[:100]
SMALL: dict[str, dict[str, Any]] = {
    "args (1, 2), a kwarg of 100 characters": {"note": NOTE},
    "the same with a colon and an equals sign": {"note": NOTE[:90] + " a: b = c."},
    "ten short kwargs": {f"field_{number}": "value" for number in range(10)},
}
LARGE: dict[str, Any] = {
    "100 MB of text": "x" * 10**8,
    "100 MB of bytes": b"x" * 10**8,
    "10 million integers": [1] * 10**7,
    "1,000 rows of 3 fields": [{"a": number, "b": "text", "c": None} for number in range(1000)],
}


def main() -> None:
    for title, encoder in (("nothing redacted", Encoder()), ("redacted", Encoder(redaction=Redaction()))):
        print(title)
        for name, kwargs in SMALL.items():
            runs = timeit.repeat(lambda: encoder.arguments((1, 2), kwargs, ("a", "b")), number=200, repeat=200)  # noqa: B023
            print(f"  {name}: {min(runs) / 200 * 1e6:.1f} us")
        for name, value in LARGE.items():
            runs = timeit.repeat(lambda: encoder.value(value), number=1, repeat=9)  # noqa: B023
            print(f"  {name}: {min(runs) * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
