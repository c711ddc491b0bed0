"""Cookies of a request. Nobody is known yet when they are read, so to read them costs next to nothing.

To take the quotes from a value, the standard library of Pythons that we support takes time that grows with the square
of its length. FastAPI reads all cookies that way, for each request.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers

MAX_COOKIES: Final = 8192
"""Bytes of all cookies of a request."""
_MAX_STEPS: Final = 200_000
"""Steps that the standard library may take to read the cookies of a request: half a millisecond. There is one for each
backslash and each character of its cookie."""

RawHeaders = list[tuple[bytes, bytes]]
"""The headers in the scope of a request."""


def cookie(headers: Headers, name: str) -> str | None:
    """The value of the first cookie with that name, as it was sent; None: there is none."""
    for header in headers.getlist("cookie"):
        for pair in header.split(";"):
            key, _, value = pair.partition("=")
            if key.strip() == name:
                return value.strip()
    return None


def cheap(headers: RawHeaders) -> RawHeaders | None:
    """The headers of a request, without those cookies that take long to read; None: its cookies are larger than
    `MAX_COOKIES`. Our own cookie has no backslash."""
    cookies = [value for name, value in headers if name == b"cookie"]
    if sum(map(len, cookies)) > MAX_COOKIES:
        return None
    escaped = [pair for value in cookies if b"\\" in value for pair in value.split(b";") if b"\\" in pair]
    if sum(pair.count(b"\\") * len(pair) for pair in escaped) <= _MAX_STEPS:
        return headers
    others = [pair for value in cookies for pair in value.split(b";") if b"\\" not in pair]
    return [*(header for header in headers if header[0] != b"cookie"), (b"cookie", b";".join(others))]
