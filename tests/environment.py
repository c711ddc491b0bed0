"""Other environment variables for a while."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest import mock


@contextmanager
def variables(more: Mapping[str, str]) -> Iterator[None]:
    """These, and what the C library makes of TZ."""
    try:
        with mock.patch.dict(os.environ, more):
            time.tzset()
            yield
    finally:
        time.tzset()
