"""The audit: an entry before and after what is done; without the first one nothing is done."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import delete, update

from celery_asynctask.errors import AuditError, StoreError
from celery_asynctask.operations import audit as module
from celery_asynctask.operations.audit import Action, Audit, Entry, Retention
from celery_asynctask.operations.session import Writer
from celery_asynctask.queries.audit import page
from celery_asynctask.queries.reader import Reader
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.tables import async_task_audit
from tests import services
from tests.integration.audit import add_entries, columns, entries, unwritable, user_with
from tests.integration.purge import record

ENTRY = Entry(Action.PURGE, "ada", "10.0.0.1", "* older than 1d")


@pytest.fixture
def audit(store: Store) -> Iterator[Audit]:
    with closing(Audit(store.settings)) as made:
        yield made


@pytest.mark.every_database
def test_an_entry_before_and_one_after(store: Store, audit: Audit) -> None:
    before = dt.datetime.now(dt.timezone.utc) - dt.timedelta(seconds=1)
    with audit.operation(ENTRY) as operation:
        [begun] = entries(store)
        assert begun.outcome == "begun"
        operation.detail = "5 tasks"
    begun, done = entries(store)
    assert tuple(done)[2:8] == ("ada", "10.0.0.1", "purge", "* older than 1d", "done", "5 tasks")
    assert (begun.detail, begun.operation) == (None, done.operation)
    assert before < begun.at <= done.at
    audit.write(ENTRY._replace(actor="Łódź 🙂\n", origin="", target=None))
    assert (entries(store)[-1].actor, entries(store)[-1].operation) == ("Łódź 🙂 ↵ ", None)


@pytest.mark.parametrize(
    ("fault", "outcome", "detail"),
    [
        (StoreError("secret"), "failed", "2 tasks; StoreError"),
        (KeyboardInterrupt(), "interrupted", "2 tasks; KeyboardInterrupt"),
        (BrokenPipeError(), "interrupted", "2 tasks; BrokenPipeError"),
    ],
)
def test_what_does_not_come_to_its_end(
    store: Store, audit: Audit, fault: BaseException, outcome: str, detail: str
) -> None:
    """Its text may quote values."""

    def act() -> None:
        with audit.operation(ENTRY) as operation:
            operation.detail = "2 tasks"
            raise fault

    with pytest.raises(type(fault)):
        act()
    assert columns(store, "outcome", "detail") == [("begun", None), (outcome, detail)]


def test_nothing_is_done_where_it_cannot_be_written(store: Store, audit: Audit) -> None:
    done: list[int] = []
    with unwritable(), pytest.raises(AuditError) as caught, audit.operation(ENTRY):
        done.append(1)
    assert (done, entries(store)) == ([], [])
    assert str(caught.value) == (
        "Not done, for every purge is audited. The audit cannot be written. The database is away. Start it."
    )
    with unwritable(), pytest.raises(AuditError, match=r"^The audit cannot be written. The database is away."):
        audit.write(ENTRY)


def test_an_end_that_cannot_be_written_is_logged(
    store: Store, audit: Audit, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done is done."""

    def refuse(*_: Any) -> None:
        raise StoreError("The database is away.")

    with audit.operation(ENTRY):
        monkeypatch.setattr(Audit, "_insert", refuse)
    assert caplog.text.count("The audit does not say how this ended: purge done by 'ada'") == 1
    assert columns(store, "outcome") == [("begun",)]


def test_every_entry_is_logged(audit: Audit, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "celery_asynctask.audit")
    audit.write(ENTRY._replace(actor="ada\nERROR forged"))
    [logged] = caplog.records
    assert (logged.name, logged.levelname) == ("celery_asynctask.audit", "INFO")
    assert logged.getMessage() == "purge done by 'ada ↵ ERROR forged' from '10.0.0.1': * older than 1d"


@pytest.mark.database
def test_characters_that_the_database_lacks() -> None:
    """Nobody is kept from acting by the letters of a name."""
    with (
        services.fresh_database(services.postgresql_url(), "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0") as url,
        closing(Store(Settings(url=url))) as store,
        closing(Audit(store.settings)) as audit,
    ):
        store.prepare()
        audit.write(ENTRY._replace(actor="Łódź", target="é"))
        assert columns(store, "actor", "target") == [("\\u0141\\xf3d\\u017a", "\\xe9")]


# -- a record that is not the app's own


@contextmanager
def about_another(own: str, foreign: str) -> Iterator[tuple[Audit, list[str]]]:
    """The audit of work on a foreign record, and what is said."""
    app = Celery("own", broker="memory://", set_as_current=False)
    app.conf.asynctask_url = own
    said: list[str] = []
    with closing(Audit(Settings.from_app(app).at(foreign), app, said.append)) as made:
        yield made, said
    app.close()


def test_a_foreign_record_gets_no_entry(store: Store, one_store: Store, tmp_path: Path) -> None:
    with about_another(store.settings.url, one_store.settings.url) as (audit, said), audit.operation(ENTRY):
        pass
    assert (entries(one_store), said) == ([], [])
    assert columns(store, "target", "outcome") == [
        (f"* older than 1d in sqlite:///{tmp_path}/rows.db", "begun"),
        (f"* older than 1d in sqlite:///{tmp_path}/rows.db", "done"),
    ]


def test_it_is_said_where_the_own_record_cannot_be_written(
    one_store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And its file is not created."""
    caplog.set_level(logging.INFO, "celery_asynctask.audit")
    with about_another(f"sqlite:///{tmp_path}/none.db", one_store.settings.url) as (audit, said):
        audit.write(ENTRY)
    assert len(said) == 1
    assert said[0].startswith(
        f"The audit of the app's own record has no entry of this: There is no database file {tmp_path}"
    )
    assert [record.getMessage() for record in caplog.records] == [
        f"purge done by 'ada' from '10.0.0.1': * older than 1d in sqlite:///{tmp_path}/rows.db"
    ]
    assert entries(one_store) == []
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("url", "elsewhere"),
    [
        ("postgresql+psycopg://admin:secret@h:5432/shop", False),
        ("postgresql+psycopg://app@h/other", True),
    ],
)
def test_the_same_record_as_another_user_is_not_another(url: str, elsewhere: bool) -> None:
    with about_another("postgresql+psycopg://app@h/shop", url) as (audit, _):
        assert audit.is_elsewhere is elsewhere


# -- reading and retention


@pytest.mark.every_database
def test_pages(store: Store) -> None:
    add_entries(store, [9, 5, 3, 2, 1])
    with closing(Audit(store.settings)) as audit:
        audit.write(ENTRY._replace(actor="bob"))
    reader = Reader(store.settings.url)
    with closing(reader):
        first = page(reader, limit=4)
        assert [row.actor for row in first.entries] == ["bob", "ada", "ada", "ada"]
        second = page(reader, limit=4, before=first.next)
        assert ([row.id for row in second.entries], second.next) == (
            [first.entries[-1].id - 1, first.entries[-1].id - 2],
            None,
        )
        assert len(page(reader, limit=6).entries) == 6
        assert page(reader, limit=6).next is None
        since = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=4)
        assert len(page(reader, since=since, actor="ada", action="rerun").entries) == 3
        assert page(reader, actor="ada", action="purge") == ([], None)


@pytest.mark.every_database
def test_old_entries_are_deleted(store: Store, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    add_entries(store, [400, 1, 399, 370, 364, 366, 0])
    kept = Retention(writer, dt.timedelta(days=365), dt.datetime.now(dt.timezone.utc))
    assert (kept.count(), kept.run(), kept.count()) == (4, 4, 0)
    assert len(entries(store)) == 3


# -- the rights of a database user


def grants(kind: str) -> list[str]:
    """The statements of the docs for a server's user, without whom they are for."""
    text = (Path(__file__).parents[3] / "docs" / "audit.md").read_text(encoding="utf-8")
    [block] = [part.partition("```")[0] for part in text.split("```sql\n") if part.startswith(f"-- {kind}")]
    return [line.rpartition(" TO ")[0] for line in block.splitlines() if line.startswith("GRANT")]


@pytest.mark.databases(*services.SERVERS)
def test_a_user_who_can_add_entries_and_not_change_them(store: Store) -> None:
    """With the rights that the docs name, everything else works."""
    kind = "PostgreSQL" if store.engine.dialect.name == "postgresql" else "MySQL and MariaDB"
    record(store, "success", "old")
    add_entries(store, [400])
    with user_with(store, *grants(kind)) as url, closing(Store(Settings(url=url))) as theirs:
        with closing(Audit(theirs.settings)) as audit, audit.operation(ENTRY):
            record(theirs, "success", "new")
        with closing(Reader(url)) as reader:
            reader.check_schema()
            assert [row.outcome for row in page(reader).entries] == ["done", "begun", "done"]
        for change in (update(async_task_audit).values(actor="eve"), delete(async_task_audit)):
            with closing(Writer(theirs.settings)) as writer, pytest.raises(StoreError) as caught:
                writer.batch(lambda connection, change=change: connection.execute(change))  # type: ignore[misc]
            assert caught.value.remedy.startswith("Give the user of asynctask_url SELECT")
        with closing(Writer(theirs.settings)) as writer, pytest.raises(StoreError):
            Retention(writer, dt.timedelta(days=365), dt.datetime.now(dt.timezone.utc)).run()
    assert columns(store, "actor", "outcome") == [("ada", "done"), ("ada", "begun"), ("ada", "done")]
