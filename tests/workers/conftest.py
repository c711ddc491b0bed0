"""Every whole-process test runs in a process that records spans, as a traced producer does."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def spans_of_this_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    import os

    from tests.workers import spans

    os.environ.setdefault("SHAPES_SPANS", str(tmp_path_factory.mktemp("spans")))
    spans.provide()
