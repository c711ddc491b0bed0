"""Sets environment variables for a while."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest import mock


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Sets these variables, and applies TZ in the C library."""
    try:
        with mock.patch.dict(os.environ, values):
            time.tzset()
            yield
    finally:
        time.tzset()
