"""What a project that runs Alembic over a database with our tables needs. It needs no Alembic itself."""

from __future__ import annotations

from celery_asynctask.store.tables import metadata


def include_object(_object: object, name: str | None, type_: str, _reflected: bool, _compare_to: object) -> bool:
    """Alembic's ``include_object`` for a project's own migrations: False for our tables, so that autogenerate does not
    propose to drop them where they are not in its ``target_metadata``. Their columns and indexes go with them.

    In ``env.py``: ``context.configure(..., include_object=celery_asynctask.include_object)``; a project that has such a
    function already calls this one as well.
    """
    return type_ != "table" or name not in metadata.tables
