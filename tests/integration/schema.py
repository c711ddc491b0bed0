"""A database's own description of its tables: types, collations, defaults, constraints and indexes."""

from __future__ import annotations

import re

from sqlalchemy import Connection, create_engine, text

_POSTGRESQL = {
    "columns": """
        SELECT c.relname || '.' || a.attname,
               format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull || ' ' || a.attnum || ' '
               || coalesce(co.collname, '-') || ' ' || coalesce(pg_get_expr(d.adbin, d.adrelid), '-')
        FROM pg_attribute a
        JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
        LEFT JOIN pg_collation co ON co.oid = a.attcollation
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attnum > 0""",
    "constraints": """
        SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "sequences": "SELECT sequencename, data_type::text FROM pg_sequences WHERE schemaname = 'public'",
}


_CONSTRAINT = re.compile("CONSTRAINT|PRIMARY KEY|UNIQUE|CHECK")


def schema_of(url: str) -> dict[str, str]:
    """Everything about the tables in the database, by the name of the part."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = _READERS[connection.dialect.name](connection)
    engine.dispose()
    return found


def _sqlite(connection: Connection) -> dict[str, str]:
    """SQLite's statements, with the columns of a table before its constraints: a column that was added later comes
    after them."""
    rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    return {name: _columns_first(re.sub(r"\s+", " ", sql)) for name, sql in rows}


def _columns_first(sql: str) -> str:
    if not sql.startswith("CREATE TABLE"):
        return sql
    head, _, body = sql.removesuffix(")").partition("(")
    parts, depth = [""], 0
    for letter in body:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    parts = [one.strip() for one in parts]
    return f"{head}({', '.join(sorted(parts, key=lambda one: bool(_CONSTRAINT.match(one))))})"


def _postgresql(connection: Connection) -> dict[str, str]:
    return {
        f"{kind} {name}": definition
        for kind, query in _POSTGRESQL.items()
        for name, definition in connection.execute(text(query))
    }


def _mysql(connection: Connection) -> dict[str, str]:
    """SHOW CREATE TABLE with sorted keys: the order in which they were created does not matter."""
    found = {}
    for (table,) in connection.execute(text("SHOW TABLES")).all():
        lines = connection.execute(text(f"SHOW CREATE TABLE `{table}`")).one()[1].splitlines()
        keys = sorted(line.rstrip(",") for line in lines if re.match(r" *(UNIQUE |PRIMARY )?KEY", line))
        others = [line.rstrip(",") for line in lines if not re.match(r" *(UNIQUE |PRIMARY )?KEY", line)]
        found[table] = "\n".join([*others, *keys])
    return found


_READERS = {"sqlite": _sqlite, "postgresql": _postgresql, "mysql": _mysql, "mariadb": _mysql}
