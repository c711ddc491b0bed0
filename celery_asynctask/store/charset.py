"""Whether the texts of a connection may have all characters: a database that refuses some gets changed values."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sqlalchemy import Connection


class Narrow(NamedTuple):
    """A character set that lacks characters."""

    problem: str
    """A sentence."""
    remedy: str
    """A sentence."""
    lacking: re.Pattern[str] | None
    """Matches each character that it lacks; None: not known."""


_BEYOND_UTF8MB3: Final = re.compile("[\U00010000-\U0010ffff]")


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
                    _lacking("ascii" if theirs == "SQL_ASCII" else theirs.lower().replace("win", "cp")),
                )
            if ours != "UTF8":
                return Narrow(
                    f"The connection has the encoding {ours}: what has other characters can be stored, but not read.",
                    "Take client_encoding out of asynctask_url and asynctask_engine_options.",
                    None,
                )
        case "mysql" | "mariadb":
            ours = connection.exec_driver_sql("SELECT @@character_set_client").scalar_one()
            if ours != "utf8mb4":
                return Narrow(
                    f"The connection has the character set {ours}: names and texts with other characters, such as "
                    "emoji, are stored with these replaced.",
                    "Write ?charset=utf8mb4 at the end of asynctask_url.",
                    _BEYOND_UTF8MB3 if ours.startswith("utf8") else _lacking("cp1252" if ours == "latin1" else ours),
                )
    return None


_SINGLE_BYTE: Final = re.compile(r"ascii|latin\d\d?|cp125\d|cp8\d\d|iso_8859_\d")


def _lacking(codec: str) -> re.Pattern[str] | None:
    """What is not among the characters of an encoding with one byte for each; None for any other encoding."""
    if not _SINGLE_BYTE.fullmatch(codec):
        return None
    try:
        known = bytes(range(1, 256)).decode(codec, "ignore")
    except LookupError:
        return None
    return re.compile(f"[^{re.escape(known)}]")
