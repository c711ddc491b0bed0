"""Whether the texts of a connection may have all characters: a database that refuses some gets changed values."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection


class Narrow(NamedTuple):
    """A character set that lacks characters."""

    problem: str
    """A sentence."""
    remedy: str
    """A sentence."""


def narrow_charset(connection: Connection) -> Narrow | None:
    """What lacks characters on the way to the tables; None: nothing. Raises `sqlalchemy.exc.SQLAlchemyError`."""
    match connection.dialect.name:
        case "postgresql":
            ours, theirs = (
                connection.exec_driver_sql(f"SHOW {side}_encoding").scalar_one() for side in ("client", "server")
            )
            if theirs != "UTF8":
                return Narrow(
                    f"The database has the encoding {theirs}: names, texts and values with other characters are stored "
                    "with these replaced.",
                    "Create a database with ENCODING 'UTF8', and name it in asynctask_url.",
                )
            if ours != "UTF8":
                return Narrow(
                    f"The connection has the encoding {ours}: what has other characters can be stored, but not read.",
                    "Take client_encoding out of asynctask_url and asynctask_engine_options.",
                )
        case "mysql" | "mariadb":
            ours = connection.exec_driver_sql("SELECT @@character_set_client").scalar_one()
            if ours != "utf8mb4":
                return Narrow(
                    f"The connection has the character set {ours}: names and texts with other characters, such as "
                    "emoji, are stored with these replaced.",
                    "Write ?charset=utf8mb4 at the end of asynctask_url.",
                )
    return None
