"""The ``asynctask_*`` keys of the Celery configuration, checked into one frozen `Settings`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery_asynctask.core.censor import OPEN, PARTLY_OPEN
from celery_asynctask.core.limits import MAX_JOURNAL, MAX_VALUE
from celery_asynctask.core.tokens import Token
from celery_asynctask.core.url import parse, store_id, without_secrets
from celery_asynctask.errors import SettingsError
from celery_asynctask.journal.place import configured_directory, default_directory
from celery_asynctask.rules import RULES, Unfit, read_url

if TYPE_CHECKING:
    from celery import Celery

DEFAULT_URL = "sqlite:///asynctask.db"
DEFAULT_EXCLUDE = ("celery.chord_unlock", "celery.backend_cleanup")


def engine_options(given: Mapping[str, Any], **pool: Any) -> dict[str, Any]:
    """Keyword arguments for one of our engines: those ``given`` by the user, on top of our ``pool`` options unless the
    user brings a pool. A pool that exists already is copied for each engine: what one engine sets on its connections,
    such as read-only, must not reach those of another."""
    if "poolclass" in given:
        return dict(given)
    if given.get("pool") is not None:
        return {**given, "pool": given["pool"].recreate()}
    return {**pool, **given}


@dataclass(frozen=True)
class Settings:
    """The settings of celery-asynctask. Each field is the key ``asynctask_<field>`` of the Celery configuration."""

    enabled: bool = True
    """Whether anything is recorded. If False: no events, no files, no threads, and messages are sent unchanged."""
    url: str = field(default=DEFAULT_URL, repr=False)
    """SQLAlchemy URL of the store. The default is a file in the working directory."""
    engine_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Keyword arguments for `sqlalchemy.create_engine`."""
    create_tables: bool = True
    """Whether the recorder creates missing tables. Set it to False if you run the migrations yourself."""
    journal_dir: Path | None = None
    """Directory of the journal: local to the node, and for one store only. None: a directory below the user's state
    directory, named after the store; see `directory`."""
    journal_max_bytes: int = MAX_JOURNAL
    """Largest size of the journal directory, in bytes. While it is full, events are dropped and counted."""
    journal_keep: float = 60.0
    """Seconds for which the journal keeps what is stored, in case the database fails over to an older state."""
    flush_interval: float = 1.0
    """Seconds between two drains of the journal."""
    batch_size: int = 4000
    """Largest number of events that the recorder stores in one transaction."""
    context: Callable[[], Mapping[str, Any] | None] | str | None = None
    """A function without arguments, or its dotted path, that returns the context of the tasks that this process sends:
    a mapping with any of ``customer``, ``created_by``, ``created_by_name``, ``content``, or None. It is called once for
    each message."""
    header_version: int = 1
    """Form of the header ``asynctask`` in messages. 2 costs less with AMQP and is the default of the next release; set
    it once all workers run a release that reads it, for earlier ones would lose the customer."""
    header_keys: tuple[bytes, ...] | None = field(default=None, repr=False)
    """Secret keys that sign the header, which is then of version 2: the first signs, and a signature by either counts.
    Customers and creators are then taken from signed headers alone. None: from every header."""
    trace_url: str | None = None
    """URL of a trace in your tracing system, with ``{trace_id}`` and optionally ``{span_id}`` for the ids."""
    links: Mapping[str, str] | None = None
    """More links for a task, such as to its logs: URLs by title, which may contain ``{task_id}``, ``{root_id}``,
    ``{parent_id}``, ``{name}``, ``{trace_id}``, ``{span_id}``, ``{customer}``, ``{worker}``, ``{start}`` and ``{end}``.
    The last two are in milliseconds since 1970: the creation of the task, and its end or else the present. A link that
    needs a value that the task does not have is not shown."""
    tokens: Mapping[str, Token] | Path | Callable[[], Any] | str | None = field(default=None, repr=False)
    """Bearer tokens of the HTTP API by name: see `core.tokens`; or the path of a JSON file of them, or a function
    without arguments, or its dotted path, that returns them, both looked at every five seconds. None: no tokens."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of the proxies in front of the server, whose ``X-Forwarded-For`` and ``X-Forwarded-Proto``
    are believed."""
    access: Callable[[Any], Any] | str | None = None
    """A function, or its dotted path, that takes each request to the HTTP API (Starlette's) and returns an
    `http.Access`, or None to refuse it. It may be async."""
    retention: Mapping[str, str | None] | None = None
    """How long ``celery asynctask purge`` keeps tasks: ages by search, such as ``30d``; None: forever. The first search
    that finds a task decides; ``*`` finds all tasks. A task that no search finds is kept; without searches, all are."""
    audit_retention: str | None = "1y"
    """How long ``celery asynctask purge`` keeps entries of the audit, such as ``90d``; None: forever."""
    max_value_bytes: int = MAX_VALUE
    """Bytes of JSON that are kept of one value (the args, the kwargs, a result, a content). A cut value is marked."""
    redact: tuple[str, ...] | None = None
    """Names of values that are never recorded, in place of the built-in ones. Case and separators do not matter. To add
    names to the built-in ones: ``[*celery_asynctask.SENSITIVE_NAMES, "account number"]``."""
    redact_rule: Callable[[tuple[str | int, ...], Any], bool] | str | None = None
    """A function, or its dotted path, that takes the path of a value, such as ``("kwargs", "card", "number")``, and the
    value, and returns whether to leave the value out. It is called for every value."""
    include: tuple[str, ...] = ("*",)
    """Globs of the task names that are recorded."""
    exclude: tuple[str, ...] = DEFAULT_EXCLUDE
    """Globs of the task names that are not recorded, even if ``include`` has them."""

    @classmethod
    def from_app(cls, app: Celery) -> Settings:
        """Read and check the configuration of ``app``. Raises `SettingsError`."""
        known = {setting.name: setting.default for setting in fields(cls)}
        values = {}
        for key, value in _configured(app).items():
            name = key.removeprefix("asynctask_")
            if name not in known:
                raise SettingsError(
                    f"Unknown setting {key!r}.{_nearest(name, known)} The settings of celery-asynctask are: "
                    f"{', '.join(sorted('asynctask_' + name for name in known))}."
                )
            rule = RULES[name]
            if value is None and known[name] is None:
                continue  # as if it were not set
            try:
                values[name] = rule.check(value)
            except ValueError as exc:
                if name == "url" and isinstance(value, str) and "://" not in value:
                    raise SettingsError(
                        f"Setting {key!r} is not an SQLAlchemy URL (its value is not shown: it may hold a password). "
                        f"Write {DEFAULT_URL} for a file, postgresql+psycopg://user@host/name for a server."
                    ) from None
                shown = repr(without_secrets(value)) if name in OPEN | PARTLY_OPEN else "(not shown)"
                raise SettingsError(
                    f"Setting {key!r} has the value {shown} of type {type(value).__name__}; it must be {rule.allowed}."
                    f"{_hint(exc)}"
                ) from None
        return cls(**values)

    def at(self, url: str) -> Settings:
        """These settings with another URL: of another store, whose journal is in its default directory, or of the same
        store, for example as another user. Raises `SettingsError` for a text that is not a usable URL."""
        try:
            there = replace(self, url=read_url(url), engine_options={}, journal_dir=None)
        except ValueError as exc:
            # It is not shown, for a password may be in it.
            raise SettingsError(
                f"This is not a usable database URL; it must be {RULES['url'].allowed}.{_hint(exc)}"
            ) from None
        return replace(there, journal_dir=self.journal_dir) if there.store_id == self.store_id else there

    @property
    def store_id(self) -> str:
        """The identity of the store, without credentials: equal for all processes that write to the same database."""
        arguments = dict(self.engine_options.get("connect_args") or {})
        if creator := self.engine_options.get("creator"):  # it connects to wherever it likes
            arguments["creator"] = getattr(creator, "__qualname__", type(creator).__name__)
        return store_id(self.url, arguments)

    @property
    def shown_url(self) -> str:
        """The URL for a person, with its secrets hidden."""
        return parse(self.url).shown

    @property
    def absolute_url(self) -> str:
        """`shown_url` with the absolute path of an SQLite file: a relative one is another file for each process that
        has another working directory."""
        url = parse(self.url)
        if url.backend == "sqlite" and url.database and not url.database.startswith(("/", ":", "file:")):
            return url.shown.replace(f":///{url.database}", f":///{Path(url.database).absolute()}", 1)
        return url.shown

    @cached_property
    def directory(self) -> Path:
        """The journal directory: ``journal_dir``, or a directory of ours in it; or one named after the store, below
        ``$XDG_STATE_HOME`` or wherever this user can have one. It is the same for as long as these settings are, even
        if another could be had meanwhile."""
        return default_directory(self.store_id) if self.journal_dir is None else configured_directory(self.journal_dir)


def _nearest(name: str, known: Iterable[str]) -> str:
    """A question that suggests the setting with the most similar name; empty if there is none."""
    near = get_close_matches(name, known, n=1)
    return f" Did you mean 'asynctask_{near[0]}'?" if near else ""


def _hint(exc: ValueError) -> str:
    """A further sentence about the value; empty if there is none."""
    return f" {exc}" if isinstance(exc, Unfit) else ""


def _configured(app: Celery) -> dict[str, Any]:
    """All ``asynctask_*`` keys in the configuration of ``app``, by their plain lower-case names.

    With a namespace, `Celery.conf` finds ``CELERY_ASYNCTASK_URL`` as ``asynctask_url``, but its iteration gives the
    keys as they were written, and unknown keys must be seen, too.
    """
    list(app.conf.keys())  # reads the configuration, if nothing has yet
    conf = app.conf
    prefix = (getattr(conf, "prefix", None) or "").lower()
    # Layer by layer: `conf.get` finds a key with the namespace first, also one that `conf.update` has overridden.
    layers = getattr(conf, "maps", None)
    values: dict[str, Any] = {}
    for layer in [conf] if layers is None else layers[:-1]:  # the last one holds Celery's defaults
        for key in list(layer.keys()):
            if not isinstance(key, str):
                continue
            name = key.lower()
            if prefix and name.startswith(prefix):
                name = name.removeprefix(prefix)
            elif prefix and key != name:
                continue  # ASYNCTASK_X beside a namespace belongs to somebody else
            if name.startswith("asynctask_"):
                values.setdefault(name, layer[key])
    return values
