"""Codes that let the person who started a server sign in: made by whoever knows the server's secret, checked by the
server without asking anybody. Pure."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from typing import Final

SECONDS: Final = 600
"""How long a code is valid."""
_TIME: Final = 5
_NONCE: Final = 9
_MAC: Final = 16
_FORM: Final = re.compile(r"[A-Za-z0-9_-]{40}", re.ASCII)


def new_secret() -> bytes:
    """A secret for one run of a server."""
    return secrets.token_bytes(32)


def new_code(secret: bytes, now: float) -> str:
    """A code of 40 characters that are safe in URLs; ``now`` in seconds since the epoch."""
    content = (int(now) + SECONDS).to_bytes(_TIME, "big") + secrets.token_bytes(_NONCE)
    return base64.urlsafe_b64encode(content + _mac(secret, content)).decode()


def expiry(secret: bytes, code: str, now: float) -> int | None:
    """When a code ends, in seconds since the epoch; None: it is none of this secret, or has ended."""
    if _FORM.fullmatch(code) is None:  # each code has one form: it is used up by its text
        return None
    given = base64.urlsafe_b64decode(code)
    content, mac = given[: _TIME + _NONCE], given[_TIME + _NONCE :]
    end = int.from_bytes(content[:_TIME], "big")
    is_ours = hmac.compare_digest(mac, _mac(secret, content))
    return end if is_ours and now < end else None


def _mac(secret: bytes, content: bytes) -> bytes:
    return hmac.digest(secret, b"celery-asynctask code" + content, "sha256")[:_MAC]
