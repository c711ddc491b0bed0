"""The script, the style sheet and the icon: files of the package, which browsers keep until a release changes them."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from celery_asynctask.web.problem import not_found

TYPES: Final = {"console.js": "text/javascript", "console.css": "text/css", "icon.svg": "image/svg+xml"}
_YEAR: Final = {"Cache-Control": "public, max-age=31536000, immutable"}


@cache
def _content(name: str) -> bytes:
    return (files("celery_asynctask.console") / "static" / name).read_bytes()


@cache
def version(name: str) -> str:
    """A digest of a file's content, for its address."""
    return hashlib.blake2b(_content(name), digest_size=6).hexdigest()


async def file(request: Request) -> Response:
    """A file, for everybody: it holds no data."""
    name = request.path_params["name"]
    if name not in TYPES:
        raise not_found("This file does not exist.")
    is_this = request.query_params.get("v") == version(name)
    return Response(_content(name), media_type=TYPES[name], headers=_YEAR if is_this else None)
