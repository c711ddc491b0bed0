"""Servers that listen to this host alone and have no configured credentials: a code and a token for the user who
started one, and the requests that only seem to come from this host."""

from __future__ import annotations

import time
from threading import Lock
from typing import Final

from fastapi import Request

from celery_asynctask.core import codes
from celery_asynctask.core.rights import Right
from celery_asynctask.core.tokens import Token, hashed, new_token
from celery_asynctask.web.access import Access
from celery_asynctask.web.problem import ProblemError

RIGHTS: Final = frozenset({Right.READ, Right.ERRORS, Right.PAYLOADS})
"""What may be done without configured credentials."""
_NAME: Final = "this host"
_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_OF_PROXIES: Final = ("x-forwarded", "cf-", "x-envoy-", "x-original-", "x-amzn-", "fly-", "forwarded", "via")
"""Beginnings of the names of headers by which proxies say for whom they ask."""
_ADDRESSES: Final = ("client-ip", "real-ip", "cluster-ip", "connecting-ip", "remote-ip", "remote-addr")
"""Ends of such names."""


class LocalRun:
    """The credentials of one run of a server: they end with it."""

    def __init__(self) -> None:
        self.secret = codes.new_secret()
        """Who knows it can make codes."""
        self.bearer = new_token()
        """A token for programs."""
        self.token = Token(_NAME, hashed(self.bearer), None, RIGHTS)
        """What `bearer`, and the sessions that codes are exchanged for, may see and do."""
        self._used: dict[str, int] = {}
        """Codes that were exchanged, and when they end."""
        self._lock = Lock()

    def new_code(self) -> str:
        """A code, valid once and for ten minutes."""
        return codes.new_code(self.secret, time.time())

    def exchange(self, code: str) -> bool:
        """Use a code up; False: it is not valid, or no longer."""
        now = time.time()
        end = codes.expiry(self.secret, code, now)
        if end is None:
            return False
        with self._lock:
            self._used = {used: until for used, until in self._used.items() if until > now}
            is_new = code not in self._used
            self._used[code] = end
        return is_new


def open_access(request: Request) -> Access:
    """What everybody on this host may see and do, where a server is open to all its users. Raises `ProblemError` for
    what a proxy passes on: from outside, with its headers or in HTTP/1.0, as nginx did until 1.29."""
    check_host(request)
    if request.scope["http_version"] == "1.0" or any(map(_is_of_proxy, request.headers)):
        raise _forbidden("a proxy passed this request on")
    return Access(customers=None, rights=RIGHTS)


def check_host(request: Request) -> None:
    """Raises `ProblemError` for a request to another name than localhost: a page of another site may send a browser
    here by a name of its own."""
    host = request.headers.get("host", "")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name.lower() not in _NAMES:
        raise _forbidden("this one names another host")


def _is_of_proxy(header: str) -> bool:
    return header.startswith(_OF_PROXIES) or header.endswith(_ADDRESSES)


def _forbidden(why: str) -> ProblemError:
    return ProblemError(
        "forbidden",
        403,
        "Without configured credentials this server answers only requests from its own host, to the name localhost; "
        f"{why}. Set asynctask_tokens (`celery -A APP asynctask token` creates one).",
    )
