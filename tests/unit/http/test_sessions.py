"""The cookie of a session: what it holds, and what ends it."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from types import SimpleNamespace

import pytest
from starlette.requests import Request

from celery_asynctask.core.rights import Right
from celery_asynctask.core.tokens import Token, hashed, new_token
from celery_asynctask.errors import StoreError
from celery_asynctask.web import sessions
from celery_asynctask.web.cookies import cookie
from celery_asynctask.web.sessions import MAX_SECONDS, EndedSessions, cookie_name, cookie_of, new_session, read_session
from tests.tokens import token_of

NOW = 1_800_000_000.5
SECRET = new_token()
TOKEN = Token("sup port ä", hashed(SECRET), None, frozenset({Right.READ}))


def request(headers: dict[str, str], scheme: str = "http") -> Request:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "scheme": scheme, "headers": raw, "client": ("127.0.0.1", 1)})


def test_a_session_can_be_read_again() -> None:
    session, text = new_session(TOKEN, NOW)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", text), "safe in a cookie"
    signed = read_session(text)
    assert signed is not None
    assert signed.session == session
    assert signed.is_by(TOKEN)
    assert (session.name, session.issued, session.expires) == (TOKEN.name, int(NOW), int(NOW) + MAX_SECONDS)
    assert new_session(TOKEN, NOW)[0].id != session.id


def test_neither_the_token_nor_its_hash_is_in_the_cookie() -> None:
    _, text = new_session(TOKEN, NOW)
    for secret in (SECRET, SECRET[10:], TOKEN.sha256, TOKEN.key):
        assert secret not in text


def test_a_session_is_not_longer_than_its_token() -> None:
    expires = dt.datetime.fromtimestamp(int(NOW) + 60, dt.timezone.utc)
    assert new_session(Token("a", TOKEN.sha256, None, frozenset(), expires=expires), NOW)[0].expires == int(NOW) + 60


def test_a_changed_cookie_is_refused() -> None:
    _, text = new_session(TOKEN, NOW)
    version, name, session_id, issued, expires, mac = text.split(".")
    other = new_session(TOKEN, NOW)[1].split(".")
    for changed in (
        (version, name, session_id, issued, str(int(expires) + 1), mac),
        (version, name, session_id, str(int(issued) - 1), expires, mac),
        (version, name, other[2], issued, expires, mac),
        (version, other[1][:-1] + "A", session_id, issued, expires, mac),
        (version, name, session_id, issued, expires, other[5]),
        (version, name, session_id, issued, expires, mac[:-2] + ("A" if mac[-2] != "A" else "B") + mac[-1]),
    ):
        signed = read_session(".".join(changed))
        assert signed is None or not signed.is_by(TOKEN), changed


def test_a_replaced_or_removed_token_ends_its_sessions() -> None:
    signed = read_session(new_session(TOKEN, NOW)[1])
    assert signed is not None
    assert not signed.is_by(Token(TOKEN.name, hashed(new_token()), None, TOKEN.rights))
    assert not signed.is_by(None)


def test_what_is_no_session() -> None:
    session = new_session(TOKEN, NOW)[1]
    for text in (
        "", "1", ".....", token_of("admin"), "1.YQ.aaaaaaaaaaaaaaaaaaaaaa.1.2.short", "2" + session[1:],
        session + "\n", session.replace(".", ";"), "1." + "a" * 100_000,
        f"1._w.{'a' * 22}.1.2.{'a' * 43}", f"1.a.{'a' * 22}.1.2.{'a' * 43}",
    ):  # fmt: skip
        assert read_session(text) is None, text[:200]


# -- the name of the cookie


def test_the_name_has_the_port_that_the_browser_knows() -> None:
    """Else two servers of one host would sign each other's readers out."""
    assert cookie_name(request({"Host": "localhost:5556"}), secure=False) == "asynctask_session_5556"
    assert cookie_name(request({"Host": "[::1]:5556"}), secure=False) == "asynctask_session_5556"
    assert cookie_name(request({"Host": "shop.example"}), secure=True) == "__Secure-asynctask_session"
    for host in ("", "[::1]", "x:", "x:a;b=c", "x:123456"):
        assert cookie_name(request({"Host": host}), secure=False) == "asynctask_session"


def test_over_https_a_cookie_that_anybody_could_have_set_does_not_count() -> None:
    plain = {"Host": "shop.example", "Cookie": "asynctask_session=plain"}
    both = {"Host": "shop.example", "Cookie": "asynctask_session=plain; __Secure-asynctask_session=safe"}
    assert cookie_of(request(plain)) == "plain"
    assert cookie_of(request(both)) == "safe"
    assert cookie_of(request(plain), https=True) is None
    assert cookie_of(request(both), https=True) == "safe"


def test_a_cookie_is_read_without_the_standard_library() -> None:
    headers = request({"Cookie": 'a="x;y"; bc=1;b=2 ;b=3; =; b'}).headers
    assert cookie(headers, "b") == "2"
    assert cookie(headers, "bc") == "1"
    assert cookie(headers, "y") is None
    assert cookie(request({}).headers, "b") is None


# -- sessions that ended


def test_the_record_is_asked_once_in_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(sessions, "time", SimpleNamespace(monotonic=lambda: now))
    asked: list[str] = []
    over = False

    async def look(session: str) -> bool:
        asked.append(session)
        return over

    ended = EndedSessions(look)

    def has(session: str) -> bool:
        return asyncio.run(ended.has(session))

    assert [has("a") for _ in range(3)] == [False] * 3
    assert asked == ["a"]
    now, over = 104.9, True
    assert not has("a")
    now = 105.0
    assert has("a")
    assert asked == ["a", "a"]
    now, over = 200.0, False
    assert has("a"), "what ended does not begin again"
    assert asked == ["a", "a"]
    assert ended.knows("a")
    assert not ended.knows("b")


def test_while_the_database_is_away_what_is_known_counts() -> None:
    async def look(_session: str) -> bool:
        raise StoreError("The database is away.")

    ended = EndedSessions(look)
    assert not asyncio.run(ended.has("a"))
    ended.add("a")
    assert asyncio.run(ended.has("a"))
