"""`celery asynctask doctor` finds each possible fault, and says what to do about it."""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import func, select, update

import celery_asynctask
from celery_asynctask.core.accounting import UNSIGNED
from celery_asynctask.core.censor import OPEN
from celery_asynctask.core.time import now, time_of
from celery_asynctask.core.tokens import Token, hashed
from celery_asynctask.errors import JournalError, SettingsError, StoreError
from celery_asynctask.journal import Directory, Journal, frame
from celery_asynctask.journal.spare import make
from celery_asynctask.journal.survey import Survey
from celery_asynctask.operations import doctor
from celery_asynctask.operations.credentials import Credentials, Use
from celery_asynctask.operations.doctor import Finding, Level, examine
from celery_asynctask.operations.doctor.journal import file_system
from celery_asynctask.queries import database_health
from celery_asynctask.settings import Settings
from celery_asynctask.store import Position, SourceUpdate, Store
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource
from celery_asynctask.store.tables import SCHEMA_VERSION, async_task_identity, async_task_version
from tests import services
from tests.doubles import Batches
from tests.histories import published
from tests.integration.commands import Project
from tests.integration.draining import MakeDrain, append
from tests.pace import patience

AWAY = "postgresql+psycopg://somebody:secret@127.0.0.1:9/nothing"
MakeApp = Callable[..., Celery]


@pytest.fixture
def make_app() -> Iterator[MakeApp]:
    made: list[Celery] = []

    def make(task_cls: Any = "celery_asynctask:RecordedTask", **settings: Any) -> Celery:
        app = Celery("doctored", broker="memory://", task_cls=task_cls, set_as_current=False)
        app.conf.update(settings)
        made.append(app)

        @app.task(name="shop.charge", shared=False)
        def charge() -> None: ...

        @app.task(name="shop.login", shared=False)
        def login() -> None: ...

        return app

    yield make
    for app in made:
        celery_asynctask.uninstall(app)
        app.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A journal directory that exists, and a database that does not."""
    found = Settings(url=AWAY, journal_dir=tmp_path / "journal")
    Directory(found.directory, found.store_id)
    return found


def look(settings: Settings, app: Any = None) -> list[Finding]:
    return list(examine(app, lambda: settings))


def about(found: list[Finding], check: str, level: Level | None = None) -> list[str]:
    return [one.text for one in found if one.check == check and level in (None, one.level)]


def problems(found: list[Finding]) -> list[str]:
    for one in found:
        assert one.remedy or one.level is not Level.PROBLEM, f"no remedy: {one}"
    return [one.text for one in found if one.level is Level.PROBLEM]


# -- the database


def count_rows(store: Store) -> int:
    with store.engine.connect() as connection:
        models = (AsyncTask, AsyncTaskAttempt, AsyncTaskSource)
        return sum(connection.scalar(select(func.count()).select_from(model)) or 0 for model in models)


@pytest.mark.every_database
def test_all_is_well(store: Store, journal: Journal, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays unchanged: the trial write is gone. The test's host may be busy and full."""
    monkeypatch.setattr(doctor.database, "SLOW_SECONDS", float("inf"))
    monkeypatch.setattr(doctor.journal, "LITTLE_BYTES", 0)
    monkeypatch.setattr(doctor.journal, "file_system", lambda _path: "ext4")
    app = make_app()
    settings = replace(store.settings, journal_dir=journal.path, journal_max_bytes=1_000_000)
    directory = Directory(settings.directory, settings.store_id)
    append(journal, {**published(), "at": now()})
    before = sorted(path.name for path in journal.path.iterdir())
    elected = directory.elect()
    assert elected is not None
    found = look(settings, app)
    os.close(elected)
    assert problems(found) == []
    assert [one.check for one in found if one.level is Level.OK] == [
        "configuration",
        "recorded tasks",
        "database",
        "clock",
        "schema",
        "rights",
        "sources",
        "journal",
        "file system",
        "recorder",
        "quarantine",
        "backlog",
    ]
    assert f"A recorder inside a worker or producer is elected: process {os.getpid()}." in about(found, "recorder")
    assert re.match(r"Not stored yet: 1 event, the oldest for \d+\.\d s\.", about(found, "backlog")[0])
    assert about(found, "recorded tasks") == ["2 of the app's 2 tasks are recorded."]
    assert count_rows(store) == 0
    assert sorted(path.name for path in journal.path.iterdir()) == sorted([*before, "drain.lock"])


@pytest.mark.every_database
def test_a_database_that_may_only_be_read(store: Store, tmp_path: Path) -> None:
    url, options = store.settings.url, {}
    if url.startswith("sqlite"):
        url = url.replace("sqlite:///", "sqlite:///file:") + "?mode=ro&uri=true"
    elif url.startswith("postgresql"):
        options = {"connect_args": {"options": "-c default_transaction_read_only=on"}}
    else:
        options = {"connect_args": {"init_command": "SET SESSION TRANSACTION READ ONLY"}}
    found = look(Settings(url=url, engine_options=options, journal_dir=tmp_path / "journal"))
    [text] = about(found, "rights", Level.PROBLEM)
    assert text.startswith("The tables can be read, but not written: ")


@pytest.mark.every_database
def test_tables_that_are_missing_or_of_another_version(store: Store, database: str, tmp_path: Path) -> None:
    with store.engine.begin() as connection:
        connection.execute(update(async_task_version).values(version_num="9999"))
    try:
        [text] = about(look(replace(store.settings, journal_dir=tmp_path / "journal")), "schema", Level.PROBLEM)
        assert text.startswith("The database has tables of version 9999")
    finally:
        with store.engine.begin() as connection:
            connection.execute(update(async_task_version).values(version_num=SCHEMA_VERSION))
    found = look(Settings(url=database, journal_dir=tmp_path / "other"))
    if database.startswith("sqlite"):
        assert "There is no database file" in about(found, "database", Level.PROBLEM)[0]
    else:
        assert about(found, "schema", Level.PROBLEM) == ["The database has no tables of celery-asynctask."]


@pytest.mark.every_database
def test_clocks_that_differ(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for dialect, clock in list(database_health._CLOCKS.items()):
        hour = "INTERVAL '1 hour'" if dialect == "postgresql" else "INTERVAL 1 HOUR"
        monkeypatch.setitem(database_health._CLOCKS, dialect, f"{clock} - {hour}")
    found = look(replace(store.settings, journal_dir=tmp_path / "journal"))
    if store.engine.dialect.name == "sqlite":
        assert "has this host's time" in about(found, "clock", Level.OK)[0]
    else:
        assert "behind this host's: times" in about(found, "clock", Level.PROBLEM)[0]
        seconds = re.search(r"[\d.]+(?= s behind)", about(found, "clock")[0])
        assert seconds
        assert float(seconds[0]) == pytest.approx(3600, abs=patience(5))


@pytest.mark.parametrize(("answers", "level"), [((0.4, 0.001, 0.3), Level.OK), ((0.4, 0.3, 0.5), Level.NOTE)])
def test_a_database_is_slow_where_no_answer_is_fast(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: tuple[float, ...], level: Level
) -> None:
    seconds = iter(answers)
    monkeypatch.setattr(database_health, "_answer", lambda _session: next(seconds))
    found = look(replace(store.settings, journal_dir=tmp_path / "journal"))
    assert f"answers in {min(answers) * 1000:.1f} ms" in about(found, "database", level)[0]


@pytest.mark.every_database
def test_processes_without_a_recorder(store: Store, tmp_path: Path) -> None:
    about_it = {"host": "far", "pid": 7, "role": "worker", "at": 1_750_000_000_000_000, "journal": "f" * 32}
    for number in range(2):
        store.write([], [SourceUpdate({**about_it, "source": f"s{number}"}, Position())])
    settings = replace(store.settings, journal_dir=tmp_path / "journal")
    assert about(look(settings), "sources", Level.OK)
    with store.engine.begin() as connection:
        long_ago = AsyncTaskSource.started_at
        connection.execute(update(AsyncTaskSource).values(last_seen_at=long_ago))
    found = look(settings)
    [text] = about(found, "sources", Level.PROBLEM)
    assert text == "Nobody knows what 2 processes did after 2025-06-15 15:06:40 UTC: far (2)."
    assert "verify --accept HOST" in next(one.remedy for one in found if one.text == text)
    with store.engine.begin() as connection:
        connection.execute(update(AsyncTaskSource).values(given_up_at=long_ago))
    assert about(look(settings), "sources", Level.OK)


@pytest.mark.every_database
def test_another_database_than_before(store: Store, tmp_path: Path) -> None:
    """A recorder stores nothing there."""
    settings = replace(store.settings, journal_dir=tmp_path / "journal")
    directory = Directory(settings.directory, settings.store_id)
    with store.engine.connect() as connection:
        [identity] = connection.scalars(select(async_task_identity.c.identity))
    for known, is_wrong in (("", False), (identity, False), ("f" * 32, True)):
        directory.know_identity(known)
        found = about(look(settings), "database", Level.PROBLEM)
        assert bool(found) is is_wrong
    assert found == [
        f"It is another database than the one in which the journal {directory.path} was stored so far: it has another "
        "identity. Nothing is stored."
    ]


def test_events_in_the_second_place(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in memory, and small."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    journal = Journal(settings.directory, settings.store_id)
    append(journal, published())
    second = Survey(settings.directory).spare
    assert second is not None
    assert make(second)
    assert not [text for text in about(look(settings), "journal") if str(second) in text]
    [segment] = settings.directory.glob("*.events")
    shutil.move(segment, second)
    [text] = [text for text in about(look(settings), "journal", Level.PROBLEM) if str(second) in text]
    assert text.startswith(
        f"{settings.directory} took no events lately: 1 process wrote to memory instead, in {second}"
    )


# -- the journal


def test_a_journal_that_nobody_drains(settings: Settings) -> None:
    journal = Journal(settings.directory, settings.store_id)
    append(journal, published())
    [text] = about(look(settings), "recorder", Level.PROBLEM)
    assert text == f"No recorder drains {settings.directory}, which has 1 segment."
    elected = Directory(settings.directory, settings.store_id).claim()
    assert elected is not None
    assert about(look(settings), "recorder", Level.PROBLEM), "a claim is no election"
    os.close(elected)
    journal.close()
    for path in settings.directory.glob("*.events"):
        path.unlink()
    assert about(look(settings), "recorder", Level.NOTE)


def test_events_that_wait_for_too_long(store: Store, journal: Journal) -> None:
    append(journal, published())  # at the beginning of every history, long ago
    [text] = about(look(replace(store.settings, journal_dir=journal.path)), "backlog", Level.PROBLEM)
    assert text.startswith("Not stored yet: 1 event, the oldest for ")


@pytest.mark.parametrize("catches_up", [False, True], ids=["a recorder that fails", "one that catches up"])
def test_events_that_an_elected_recorder_has_not_stored(
    store: Store, journal: Journal, make_drain: MakeDrain, monkeypatch: pytest.MonkeyPatch, catches_up: bool
) -> None:
    """A fault of up to a minute in the recorder's storing once counted as no problem. A process that has ended leaves
    the ledger with its last event, and takes more stored events with it than the recorder stores meanwhile."""
    ended = Journal(journal.path, store.settings.store_id)
    for number in range(3):
        append(ended, {**published(), "at": now() - 10_000_000, "id": f"ended-{number}"})
    ended.close()
    drain = make_drain(batch_size=2)
    drain.batch()
    append(journal, {**published(), "at": now() - 10_000_000, "id": "other"})
    elected = drain.directory.elect()
    assert elected is not None
    looks = 0
    done = doctor.journal._done

    def look_again(*given: Any) -> int:
        nonlocal looks
        looks += 1
        if looks > 1 and catches_up:
            drain.work()
        return done(*given)

    monkeypatch.setattr(doctor.journal, "_done", look_again)
    monkeypatch.setattr(doctor.journal, "LOOK_SECONDS", 0.2)
    found = look(replace(store.settings, journal_dir=journal.path))
    os.close(elected)
    assert looks > 1
    [text] = about(found, "backlog", Level.NOTE if catches_up else Level.PROBLEM)
    assert text.startswith("Not stored yet: 2 events, the oldest for 1")
    assert text.endswith("The recorder catches up." if catches_up else "it fails, or waits before its next try.")


def test_a_segment_of_a_format_that_is_not_known(settings: Settings) -> None:
    path = settings.directory / "20260102T030405-4711-a1b2c3d4.000001.events"
    path.write_bytes(frame.pack(0, b'{"format":9}'))
    [text] = [text for text in about(look(settings), "journal", Level.PROBLEM) if "format" in text]
    assert text.endswith("has the format 9, which this version of celery-asynctask does not know.")


def test_quarantine(settings: Settings) -> None:
    assert about(look(settings), "quarantine", Level.OK)
    directory = Directory(settings.directory, settings.store_id)
    for source in ("one", "two", "two"):
        directory.quarantine(source, b"cannot be stored")
    [text] = about(look(settings), "quarantine", Level.PROBLEM)
    assert text.startswith("3 events or damaged lines could not be stored and lie in 2 files, such as ")
    remedies = [one.remedy for one in look(settings) if one.check == "quarantine"]
    assert "`celery -A APP asynctask quarantine list` shows them" in remedies[0]


def test_a_journal_directory_that_is_not_there(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal"
    assert about(look(replace(settings, journal_dir=path)), "journal", Level.NOTE)
    assert not path.parent.exists(), "it only looks"
    file = tmp_path / "file"
    file.touch()
    assert "may not create it" in about(look(replace(settings, journal_dir=file / "x")), "journal", Level.PROBLEM)[0]
    assert "is not a directory" in about(look(replace(settings, journal_dir=file)), "journal", Level.PROBLEM)[0]


def test_a_journal_directory_that_nobody_has_used(tmp_path: Path) -> None:
    """As an image or an init container creates it."""
    path = tmp_path / "journal"
    path.mkdir(mode=0o700)
    found = look(Settings(url=AWAY, journal_dir=path))
    assert about(found, "journal") == [
        f"{path} is not in use yet: the first process that records on this host begins a journal."
    ]
    assert about(found, "journal", Level.NOTE)
    assert list(path.iterdir()) == [], "it only looks"


def test_a_journal_directory_of_others(settings: Settings) -> None:
    settings.directory.chmod(0o755)
    assert "has the mode 0755" in about(look(settings), "journal", Level.NOTE)[0]
    assert stat.S_IMODE(settings.directory.stat().st_mode) == 0o755, "it only looks"
    other = replace(settings, url=AWAY.replace("nothing", "other"))
    assert "belongs to the store postgresql://localhost:9/nothing" in about(look(other), "journal", Level.PROBLEM)[0]
    if os.geteuid() == 0:
        os.chown(settings.directory, 12345, 12345)
        assert "belongs to user id 12345" in about(look(settings), "journal", Level.PROBLEM)[0]


def test_the_room_for_the_journal(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    (settings.directory / "x.000001.events").write_bytes(b"x" * 900_000)
    for limit, level in ((1_000_000, Level.NOTE), (2_000_000, Level.OK), (10**12, Level.NOTE)):
        assert about(look(replace(settings, journal_max_bytes=limit)), "journal", level), limit
    (settings.directory / "x.000001.events").write_bytes(b"x" * 1_000_000)
    full = look(replace(settings, journal_max_bytes=1_000_000))
    assert "Events are dropped." in about(full, "journal", Level.PROBLEM)[0]
    monkeypatch.setattr(doctor.journal, "LITTLE_BYTES", 10**18)
    assert about(look(settings), "journal", Level.PROBLEM)


def test_file_systems(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/mountinfo").exists():
        pytest.skip("only Linux tells")
    assert file_system(Path("/proc/self")) == "proc"
    for kind, level in (("ext4", Level.OK), ("tmpfs", Level.NOTE), ("nfs4", Level.NOTE), ("fuse.sshfs", Level.NOTE)):
        monkeypatch.setattr(doctor.journal, "file_system", lambda _path, kind=kind: kind)
        assert kind in about(look(settings), "file system", level)[0]
    monkeypatch.setattr(doctor.journal, "file_system", lambda _path: None)
    assert about(look(settings), "file system") == []


# -- the application


def test_an_app_that_records_nothing(settings: Settings, make_app: MakeApp) -> None:
    assert "Nothing of this app is recorded" in about(look(settings, make_app(task_cls=None)), "recorded tasks")[0]
    off = look(settings, make_app(asynctask_include=["billing.*"]))
    assert "None of the app's 2 tasks is recorded." in problems(off)
    wholly_off = look(replace(settings, enabled=False), make_app(asynctask_enabled=False))
    assert "asynctask_enabled is False: nothing is recorded." in problems(wholly_off)


def test_what_is_left_out(settings: Settings, make_app: MakeApp) -> None:
    exclude = ("shop.log*", "shop.mistyped")
    found = look(replace(settings, exclude=exclude), make_app(asynctask_exclude=list(exclude)))
    assert about(found, "recorded tasks", Level.OK) == ["1 of the app's 2 tasks are recorded, but not shop.login."]
    assert about(found, "recorded tasks", Level.NOTE) == [
        "'shop.mistyped' in asynctask_exclude matches no task that is known here."
    ]


def test_tasks_with_a_strategy_of_their_own(settings: Settings, make_app: MakeApp) -> None:
    app = make_app(asynctask_exclude=["shop.left"])

    @app.task(name="shop.collect", shared=False, base=Batches)
    def collect(requests: Any) -> None: ...

    @app.task(name="shop.left", shared=False, base=Batches)
    def left(requests: Any) -> None: ...

    [text] = about(look(settings, app), "recorded tasks", Level.NOTE)
    assert text.startswith(
        "What becomes of a message in a worker is decided by the task's own strategy: shop.collect. "
    )


def test_what_cannot_be_imported(settings: Settings, make_app: MakeApp) -> None:
    found = look(replace(settings, context="nowhere.whose"), make_app(imports=["nowhere_at_all"]))
    assert any("asynctask_context names 'nowhere.whose', which cannot be imported" in text for text in problems(found))
    assert any("No module named 'nowhere_at_all'" in text for text in problems(found))
    assert about(found, "recorded tasks", Level.OK), "what there is is looked at all the same"


def test_a_search_of_the_retention_that_cannot_be_read(settings: Settings, make_app: MakeApp) -> None:
    """Only `purge` reads it otherwise."""
    found = look(replace(settings, retention={"status:SUCCESS": "30d", "stat:LOST": "1y"}), make_app())
    [finding] = [one for one in found if "asynctask_retention" in one.text and one.level is Level.PROBLEM]
    assert finding.text.startswith("Setting 'asynctask_retention' has the rule 'stat:LOST': The search has no key ")
    assert finding.remedy == "Correct that search: `purge` deletes nothing until then."


def test_a_relative_file_is_named_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Store(Settings(url="sqlite:///rows.db")).prepare()
    found = look(Settings(url="sqlite:///rows.db", journal_dir=tmp_path / "journal"))
    shown = f"sqlite:///{tmp_path}/rows.db"
    assert any(f"The store is {shown}." in text for text in about(found, "configuration", Level.OK))
    assert any(text.startswith(f"{shown}: connected") for text in about(found, "database", Level.OK))


def test_a_wrong_setting() -> None:
    def wrong() -> Settings:
        raise SettingsError("Unknown setting")

    found = list(examine(None, wrong))
    assert problems(found) == ["Unknown setting"]
    assert about(found, "telemetry")


@pytest.mark.parametrize(
    ("error", "text", "remedy"),
    [
        (RuntimeError("boom"), "A check failed: RuntimeError: boom.", "Please report this"),
        (PermissionError(13, "Permission denied", "/x"), "A check failed: /x: Permission denied.", "Run `doctor` as"),
        (StoreError("It does not answer.", "Start it."), "A check failed: It does not answer.", "Start it."),
        (JournalError("It is no directory."), "A check failed: It is no directory.", "Correct that, and run"),
    ],
)
def test_a_check_that_fails_hides_no_other(
    settings: Settings, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, error: Exception, text: str, remedy: str
) -> None:
    """Only a fault of this package is to be reported."""

    def broken(_settings: Settings) -> Any:
        raise error

    monkeypatch.setattr(doctor.journal, "journal", broken)
    found = look(settings, make_app())
    [finding] = [one for one in found if one.check == "doctor"]
    assert (finding.text, finding.remedy.startswith(remedy)) == (text, True)
    assert found[-1].check == "telemetry"


def test_a_configuration_that_cannot_be_read(tmp_path: Path) -> None:
    source = 'from celery import Celery\napp = Celery("proj")\napp.config_from_object("nosuch_module")\n'
    ended = Project(tmp_path, source).run("doctor")
    assert ended.code == 1
    assert "✖ problem   configuration: The Celery configuration cannot be read here: ModuleNotFoundError" in ended.out


def test_tokens_are_not_shown(settings: Settings) -> None:
    found = look(replace(settings, tokens={"support": Token("support", "0123456789abcdef" * 4, None, frozenset())}))
    [text] = about(found, "configuration")
    assert "asynctask_tokens" in text
    assert "support" not in text
    assert "0123456789" not in text


def test_unsigned_messages(store: Store, tmp_path: Path) -> None:
    """The keys that they lack are not shown."""
    settings = replace(store.settings, journal_dir=tmp_path, header_keys=(b"hunter2" * 5,))
    found = look(settings)
    assert about(found, "signed headers", Level.OK)
    assert "hunter2" not in str(found) + repr(settings)
    assert "asynctask_header_keys" in about(found, "configuration")[0]
    for number in (1, 2):
        at = {"source": f"w{number}", "host": f"far{number}", "pid": 1, "role": "worker", "at": now(), "journal": ""}
        store.write([], [SourceUpdate(at, Position(dropped={UNSIGNED: 700 * number}))])
    [text] = about(look(settings), "signed headers", Level.NOTE)
    assert "received 2,100 messages that named a customer or creator" in text
    assert "far1 (700), far2 (1,400)" in text
    assert about(look(replace(settings, header_keys=None)), "signed headers") == []


def test_a_setting_is_hidden_until_somebody_decides_otherwise(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new one may hold a key."""
    monkeypatch.setattr("celery_asynctask.operations.doctor.application.OPEN", OPEN - {"batch_size"})
    [text] = about(look(replace(settings, batch_size=1717)), "configuration")
    assert "asynctask_batch_size" in text
    assert "1717" not in text


def test_tokens_that_end_or_that_nobody_uses_are_named(settings: Settings, tmp_path: Path) -> None:
    today = time_of(now())
    settings = replace(settings, url=f"sqlite:///{tmp_path / 'rows.db'}")
    store = Store(settings)
    store.prepare()
    store.close()
    credentials = Credentials(settings)

    def token(name: str, created: int, expires: int | None = None, used: int | None = None) -> Token:
        sha256 = hashed(name)
        if used is not None:
            credentials.used({sha256[:16]: Use(name, today + dt.timedelta(days=used))})
        ends = None if expires is None else today + dt.timedelta(days=expires)
        return Token(name, sha256, None, frozenset(), today + dt.timedelta(days=created), ends)

    made = [
        token("fresh", -1), token("used", -400, used=-89), token("idle", -400, used=-91), token("never", -91),
        token("soon", -80, 13), token("later", -80, 15), token("over", -400, -1),
    ]  # fmt: skip
    credentials.close()
    found = look(replace(settings, tokens={one.name: one for one in made}))
    assert about(found, "tokens") == [
        "Expired: over.", "Expire within 14 days: soon.", "Not used for 90 days: idle, never.",
    ]  # fmt: skip
    found = look(replace(settings, tokens={"fresh": made[0]}))
    assert about(found, "tokens") == ["1 configured."]
    assert about(look(settings), "tokens") == []


def test_tokens_that_cannot_be_read(settings: Settings, tmp_path: Path) -> None:
    """A worker's host does not have the file of the server's."""
    [text] = about(look(replace(settings, tokens=tmp_path / "none.json")), "tokens", Level.NOTE)
    assert "none.json of asynctask_tokens cannot be read" in text


def test_secrets_in_urls_are_not_shown(settings: Settings, make_app: MakeApp) -> None:
    """Of the database, and of what is linked to."""
    secret = "hunter2"
    with_secrets = replace(
        settings,
        url=f"{AWAY}?sslpassword={secret}&options=-cx.y%3D{secret}&init_command={secret}",
        trace_url=f"https://traces/{{trace_id}}?api_key={secret}",
        links={"Logs": f"https://logs/?q={{task_id}}&token={secret}"},
    )
    found = look(with_secrets, make_app())
    assert secret not in str(found)
    assert "https://traces/{trace_id}?api_key=***" in about(found, "configuration")[0]
    assert "https://logs/?q={task_id}&token=***" in about(found, "configuration")[0]
    assert "sslpassword=***&options=***" in about(found, "configuration")[0]


# -- remedies


@pytest.mark.parametrize(
    ("url", "beginning"),
    [
        ("sqlite:///{path}/none/rows.db", "Nothing can be: create the directory {path}/none"),
        ("sqlite:///{path}", "{path} is a directory: name a file"),
        ("sqlite:///{path}/text.db", "Name an SQLite file in asynctask_url"),
        ("postgresql+nosuch://h/d", "Write postgresql+psycopg:// in asynctask_url."),
        ("mysql+pymysql://u@127.0.0.1:9/d", "Start the database, or correct the host and the port"),
        ("postgresql+psycopg://u@nowhere.invalid/d", "Correct the host in asynctask_url"),
        ("postgresql+psycopg://u@127.0.0.1:9/d?nonsense=1", "Correct asynctask_engine_options, or the options behind"),
    ],
)
def test_a_database_that_cannot_be_used(
    settings: Settings, make_app: MakeApp, tmp_path: Path, url: str, beginning: str
) -> None:
    (tmp_path / "text.db").write_text("no database" * 100, encoding="utf-8")
    found = look(replace(settings, url=url.format(path=tmp_path)), make_app())
    [finding] = [one for one in found if one.check == "database"]
    assert finding.level is Level.PROBLEM
    assert finding.remedy.startswith(beginning.format(path=tmp_path))
    assert finding.remedy.endswith("Until then, events wait in the journal.")
    assert not [one for one in found if "Please report" in one.remedy]


def test_options_that_the_driver_does_not_know(store: Store, settings: Settings, make_app: MakeApp) -> None:
    wrong = replace(settings, url=store.settings.url, engine_options={"connect_args": {"nosuch": 1}})
    found = look(wrong, make_app())
    [finding] = [one for one in found if one.check == "database"]
    assert "nosuch" in finding.text
    assert finding.remedy.startswith("Correct asynctask_engine_options")
    assert not [one for one in found if "Please report" in one.remedy]


@pytest.mark.databases(*services.SERVERS)
def test_tables_that_nobody_makes(database: str, tmp_path: Path) -> None:
    for creates, todo in (
        (True, "Start a worker, whose recorder creates them with the first task it stores, or run `"),
        (False, "so no recorder creates them."),
    ):
        found = look(Settings(url=database, journal_dir=tmp_path / "journal", create_tables=creates))
        [finding] = [one for one in found if one.check == "schema"]
        assert "un `celery -A APP asynctask upgrade`, which needs celery-asynctask[migrations]" in finding.remedy
        assert todo in finding.remedy


@pytest.mark.every_database
def test_tables_that_another_holds(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the way is a lock, not a missing right; and `doctor` does not wait for its end."""
    monkeypatch.setattr(doctor.database, "LOCK_SECONDS", 1)
    with store.engine.connect() as connection:
        if store.settings.url.startswith("sqlite"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif store.settings.url.startswith("postgresql"):
            connection.exec_driver_sql("LOCK TABLE async_task IN SHARE MODE")
        else:
            connection.exec_driver_sql("SELECT slot FROM async_task_change FOR UPDATE")
        found = look(replace(store.settings, journal_dir=tmp_path / "journal"))
    [finding] = [one for one in found if one.check == "rights"]
    assert finding.level is Level.PROBLEM
    assert finding.remedy.startswith("Another transaction holds a lock")


# -- the command


def test_the_command(store: Store, journal: Journal, tmp_path: Path) -> None:
    project = Project(tmp_path, asynctask_url=store.settings.url, asynctask_journal_dir=str(journal.path))
    append(journal, {**published(), "at": now()})
    elected = Directory(journal.path, store.settings.store_id).elect()
    assert elected is not None
    well = project.run("doctor")
    os.close(elected)
    assert well.code == 0, well.out + well.err
    assert "✔ ok        rights: All tables can be read and written" in well.out
    assert f"elected: process {os.getpid()}." in well.out
    assert well.lines[-1].startswith("0 problems, ")
    ill = project.run("doctor", "--json")
    assert ill.code == 1
    assert [one["check"] for one in ill.values if one["level"] == "problem"] == ["recorder"]


def test_the_command_with_a_database_that_is_away(tmp_path: Path) -> None:
    project = Project(tmp_path, asynctask_url=AWAY, asynctask_journal_dir=str(tmp_path / "journal"))
    ended = project.run("doctor")
    assert ended.code == 1
    assert "secret" not in ended.out + ended.err
    assert (
        "✖ problem   database: The database postgresql+psycopg://somebody:***@127.0.0.1:9/nothing cannot be"
        in ended.out
    )
    assert (
        "            Start the database, or correct the host and the port in asynctask_url. Until then, events wait in "
        "the journal.\n" in ended.out
    )
    assert "journal: " in ended.out, "the rest is looked at all the same"


TRACED = """
from celery import Celery
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
CeleryInstrumentor().instrument()
app = Celery("proj", broker="memory://", task_cls="celery_asynctask:RecordedTask")
app.conf.update({settings!r})
"""


def test_the_command_with_traces_and_a_wrong_setting(tmp_path: Path) -> None:
    project = Project(tmp_path, TRACED, asynctask_urll="sqlite://")
    ended = project.run_process("doctor")
    assert ended.code == 1
    assert "✖ problem   configuration: Unknown setting 'asynctask_urll'" in ended.out
    assert "TracerProvider makes traces" in ended.out
    assert "is active in this process" in ended.out
