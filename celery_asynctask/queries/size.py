"""How much room our tables take in a database, as far as it tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy import bindparam, text
from sqlalchemy.orm import Session

from celery_asynctask.store.models import Base

_TABLES: Final = sorted(Base.metadata.tables)
_POSTGRESQL: Final = text(
    "SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE oid IN "
    f"({', '.join(f'to_regclass({name!r})' for name in _TABLES)})"
)
_MYSQL: Final = text(
    "SELECT table_name, data_length + index_length FROM information_schema.tables "
    "WHERE table_schema = DATABASE() AND table_name IN :tables"
).bindparams(bindparam("tables", _TABLES, expanding=True))


class Size(NamedTuple):
    """Bytes."""

    total: int
    tables: Mapping[str, int]
    """Of each table with its indexes, the largest first; empty where only the whole is known."""


def size(session: Session) -> Size | None:
    """None where it cannot be told. SQLite tells that of its file, whatever else is in it; MySQL about when it last
    counted."""
    dialect = session.get_bind().dialect.name
    if dialect == "sqlite":
        pages, each = (session.execute(text(f"PRAGMA {name}")).scalar_one() for name in ("page_count", "page_size"))
        return Size(pages * each, {})
    if dialect not in ("postgresql", "mysql", "mariadb"):
        return None
    rows = session.execute(_POSTGRESQL if dialect == "postgresql" else _MYSQL).all()
    tables = {str(name): int(length) for name, length in rows if length is not None}
    largest_first = sorted(tables, key=lambda name: (-tables[name], name))
    return Size(sum(tables.values()), {name: tables[name] for name in largest_first}) if tables else None
