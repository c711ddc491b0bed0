"""Where tokens are, if not in the settings: a JSON file, or a function of the user's."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from kombu.utils.imports import symbol_by_name

from celery_asynctask.core.text import reason
from celery_asynctask.core.tokens import Token, read_tokens
from celery_asynctask.errors import SettingsError

MAX_BYTES: Final = 1_000_000
"""Size of the file."""
_ROOT: Final = 0

Source = Mapping[str, Token] | Path | Callable[[], Any] | str | None
"""The setting ``asynctask_tokens``."""


def reader_of(source: Source) -> Callable[[], Mapping[str, Token]]:
    """A function that reads the tokens of a setting anew with each call; while they are unchanged in a file, it returns
    the same object. It raises `SettingsError`, and so does this for a function that cannot be imported."""
    if source is None:
        return dict
    if isinstance(source, Mapping):
        return lambda: source
    return TokenFile(source).read if isinstance(source, Path) else _of_function(source)


class TokenFile:
    """A JSON file of tokens, as in the setting. Whoever can write it can let anybody in, and whoever can read it can
    sign sessions of the console, so it must be closed to other users."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._tokens: Mapping[str, Token] = {}

    def read(self) -> Mapping[str, Token]:
        """Its tokens. Raises `SettingsError`."""
        try:
            with os.fdopen(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                status = os.fstat(file.fileno())
                self._check(status)
                seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                if seen != self._seen:
                    self._tokens = self._parsed(file.read(MAX_BYTES + 1))
                    self._seen = seen
        except OSError as exc:
            raise SettingsError(
                f"The file {self._path} of asynctask_tokens cannot be read: {exc.strerror}. Run `celery -A APP "
                f"asynctask token NAME --into {self._path}`, which creates one."
            ) from exc
        return self._tokens

    def add(self, name: str, grant: Mapping[str, Any]) -> None:
        """Add a token; the file is made if it is not there, and replaced at once if it is. Raises `SettingsError` where
        it has one of that name, or cannot be written."""
        path = Path(os.path.realpath(self._path))
        try:
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX)  # another one may add to it at this moment
                tokens, status = self._raw(path)
                if name in tokens:
                    raise SettingsError(
                        f"{self._path} has a token {name!r} already. Choose another name, or remove it."
                    )
                _replace(path, {**tokens, name: grant}, status)
            finally:
                os.close(directory)
        except OSError as exc:
            raise SettingsError(f"The file {self._path} cannot be written: {exc.strerror}. Choose another.") from exc

    def _raw(self, path: Path) -> tuple[dict[str, Any], os.stat_result | None]:
        if not path.exists():
            return {}, None
        self.read()
        return json.loads(path.read_bytes()), path.stat()

    def _check(self, status: os.stat_result) -> None:
        """Of a file of root's the group may read, as PostgreSQL has it for keys and containers for secrets."""
        is_roots = status.st_uid == _ROOT != os.geteuid()
        others = (stat.S_IRWXG & ~stat.S_IRGRP if is_roots else stat.S_IRWXG) | stat.S_IRWXO
        if not stat.S_ISREG(status.st_mode):
            raise SettingsError(
                f"{self._path}, which asynctask_tokens names, is not a file. Give the path of a JSON file."
            )
        if status.st_uid != os.geteuid() and not is_roots:
            raise SettingsError(
                f"The file {self._path} of asynctask_tokens belongs to another user. Run: chown {os.geteuid()} "
                f"{self._path}"
            )
        if status.st_mode & others:
            raise SettingsError(
                f"The file {self._path} of asynctask_tokens is open to other users. Run: chmod 600 {self._path}"
            )

    def _parsed(self, content: bytes) -> Mapping[str, Token]:
        if len(content) > MAX_BYTES:
            raise SettingsError(f"The file {self._path} of asynctask_tokens must have at most {MAX_BYTES:,} bytes.")
        try:
            return read_tokens(json.loads(content))
        except (ValueError, RecursionError) as exc:
            where = f"line {exc.lineno}: {exc.msg}" if isinstance(exc, json.JSONDecodeError) else str(exc)
            raise SettingsError(f"Correct a mistake in the file {self._path} of asynctask_tokens: {where}") from None


def _replace(path: Path, tokens: Mapping[str, Any], before: os.stat_result | None) -> None:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(json.dumps(tokens, indent=2, ensure_ascii=False).encode() + b"\n")
            if before is not None and os.geteuid() == _ROOT:
                os.fchown(file.fileno(), before.st_uid, before.st_gid)  # else its reader could no longer read it
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        with suppress(FileNotFoundError):
            fresh.unlink()


def _of_function(source: Callable[[], Any] | str) -> Callable[[], Mapping[str, Token]]:
    try:
        function: Callable[[], Any] = symbol_by_name(source)
    except (ImportError, AttributeError, ValueError) as exc:
        raise SettingsError(
            f"Setting 'asynctask_tokens' names {source!r}, which cannot be imported: {exc}. Correct the name, or run "
            "this where it can be imported."
        ) from exc

    def read() -> Mapping[str, Token]:
        try:
            value = function()
        except Exception as exc:
            raise SettingsError(
                f"The function of asynctask_tokens failed: {type(exc).__name__}: {reason(exc)}. Correct it."
            ) from exc
        try:
            return read_tokens(value)
        except ValueError as exc:
            raise SettingsError(
                f"The function of asynctask_tokens returned what it must not. Correct it: {exc}"
            ) from None

    return read
