"""Tokens of tests, in the form that is accepted, and the cookies of their sessions."""

from __future__ import annotations

import base64
import hashlib
import time
from functools import cache

from celery_asynctask.core.tokens import Token, hashed
from celery_asynctask.web.sessions import COOKIE, new_session


def token_of(name: str) -> str:
    """The token with that name: always the same."""
    return f"asynctask_{base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).decode().rstrip('=')}"


@cache
def session_of(name: str) -> str:
    """The value of the cookie of a user who has signed in with a token, once."""
    return new_session(Token(name, hashed(token_of(name)), None, frozenset()), time.time())[1]


def cookie_of(name: str) -> str:
    """The header ``Cookie`` of such a user, of a server without a port in its address."""
    return f"{COOKIE}={session_of(name)}"
