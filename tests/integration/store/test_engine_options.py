"""Engine options are obeyed by the recorder and the readers alike, or refused: `tests/unit/test_settings.py`."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import NullPool, create_engine, inspect, select

from celery_asynctask.queries import Reader
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask
from tests.histories import HISTORIES, lines
from tests.integration.rows import stored

OPTIONS: list[dict[str, Any]] = [
    {},
    {"poolclass": NullPool},
    {"pool_pre_ping": False, "pool_recycle": 10, "pool_use_lifo": True},
    {"pool_reset_on_return": None},
    {"query_cache_size": 0, "label_length": 6, "use_insertmanyvalues": False},
    {"execution_options": {"compiled_cache": None, "no_parameters": True, "logging_token": "ours"}},
    {"plugins": [], "hide_parameters": True},
]


@pytest.mark.every_database
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "none")
def test_recorder_and_readers_agree(database: str, options: dict[str, Any]) -> None:
    app = Celery("options", set_as_current=False, changes={"asynctask_url": database})
    app.conf.asynctask_engine_options = options
    settings = Settings.from_app(app)
    store = Store(settings)
    store.prepare()
    store.write(lines(HISTORIES["success"]()))
    store.note_alive({"nobody": None})
    store.note_ended("nothing", (), dt.timedelta(0))
    reader = Reader(settings.url, settings.engine_options)
    reader.check_schema()
    with reader.session() as session:
        read = session.scalars(select(AsyncTask.celery_task_id)).all()
    assert read == list(stored(store)) != []
    for one in (reader, store):
        one.close()
    app.close()


@pytest.mark.databases("postgresql")
def test_another_schema_is_named_in_the_url(database: str) -> None:
    """As the message about schema_translate_map says. Two schemas of a database are two stores."""
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA audit")
    engine.dispose()
    settings = Settings(url=f"{database}?options=-csearch_path%3Daudit")
    assert settings.store_id == f"{Settings(url=database).store_id}?search_path=audit"
    store = Store(settings)
    store.prepare()
    store.write(lines(HISTORIES["success"]()))
    reader = Reader(settings.url)
    reader.check_schema()
    with reader.session() as session:
        assert len(session.scalars(reader.tasks()).all()) == 1
    for one in (reader, store):
        one.close()
    engine = create_engine(database)
    assert "async_task" in inspect(engine).get_table_names("audit")
    assert inspect(engine).get_table_names("public") == []
    engine.dispose()
