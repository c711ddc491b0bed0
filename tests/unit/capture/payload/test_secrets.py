"""What redaction took from a task's arguments is in no text of the task, whoever quotes it, in whatever form."""

from __future__ import annotations

import base64
import dataclasses
import enum
import html
import json
import re
import subprocess
import sys
import traceback
import urllib.parse
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from hypothesis import assume, given
from hypothesis import strategies as st

from celery_asynctask.capture.payload import Encoder, error_message, reason_text
from celery_asynctask.capture.payload.redaction import Redaction
from celery_asynctask.capture.payload.secrets import MAX_SECRETS, MAX_SIZE, PART, Secret, Secrets, secrets_in
from celery_asynctask.core.limits import MAX_MESSAGE
from tests import quick
from tests.unit.capture.payload.values import armed, hostile

ENCODER = Encoder(redaction=Redaction())
SECRET = "hunter2SECRET99"


def taken(
    kwargs: Any, encoder: Encoder = ENCODER, args: tuple[Any, ...] = (), names: tuple[str, ...] = ()
) -> list[Any]:
    """What redaction takes from a task's arguments."""
    secrets: list[Secret] = []
    encoder.arguments(args, kwargs, names, secrets)
    return secrets


def knowing(*secrets: Secret) -> Encoder:
    return ENCODER.knowing(list(secrets))


# -- which values --------------------------------------------------------------------------


@dataclasses.dataclass
class Account:
    name: str
    pin_of_card: str = dataclasses.field(repr=False)


class Login(pydantic.BaseModel):
    user: str
    password: str = pydantic.Field(min_length=50)


class Key(pydantic.BaseModel):
    value: str = pydantic.Field(repr=False)


class Text(str):
    __slots__ = ()


TAKEN: dict[str, tuple[Any, list[Secret]]] = {
    "by name": ({"password": SECRET, "user": "ada.lovelace"}, [SECRET]),
    "nested by name": ({"options": [{"db": {"apiKey": SECRET}}]}, [SECRET]),
    "all of what has the name": (
        {"secrets": {"a": ["first one", ("second one", 123456789)]}},
        [
            "first one",
            "second one",
            "123456789",
        ],
    ),
    "a header in a list": ({"headers": [["Accept", "text/html"], ("X-Api-Key", SECRET)]}, [SECRET]),
    "a name beside its value": ({"variable": {"value": SECRET, "name": "DB_PASSWORD"}}, [SECRET]),
    "a header with its scheme": ({"authorization": f"Token {SECRET}"}, [f"Token {SECRET}", SECRET]),
    "a field that pydantic hides": ({"key": Key(value=SECRET)}, [SECRET]),
    "in a text that is cut": ({"note": "redis://:in-the-url@db/0 " + "x" * 100_000}, [":in-the-url", "in-the-url"]),
    "a field that is hidden": ({"account": Account("ada.lovelace", SECRET)}, [SECRET]),
    "an object with the name": ({"credentials": Account("ada.lovelace", SECRET)}, ["ada.lovelace", SECRET]),
    "pydantic's secrets": (
        {"key": pydantic.SecretStr(SECRET), "raw": pydantic.SecretBytes(b"raw-bytes")},
        [
            SECRET,
            "raw-bytes",
        ],
    ),
    "in a URL": (
        {"url": "postgresql://ada:hunter%402@db.internal/shop"},
        [
            "ada:hunter%402",
            "ada:hunter@2",
            "hunter%402",
            "hunter@2",
        ],
    ),
    "in a text": ({"body": f'{{"user": "ada", "password": "{SECRET}"}}'}, [SECRET]),
    "two in a text": ({"query": f"a=1&token={SECRET}&b=2&api_key=0123-4567"}, [SECRET, "0123-4567"]),
    "a number": ({"card_number": 4242424242424242}, ["4242424242424242"]),
    "a UUID": ({"token": uuid.UUID(int=7)}, [str(uuid.UUID(int=7))]),
    "bytes": ({"token": SECRET.encode(), "secret": b"\xff\xfe\xfd\xfc\xfb\xfa"}, [SECRET, b"\xff\xfe\xfd\xfc\xfb\xfa"]),
    "a subclass of str": ({"token": Text(SECRET)}, [SECRET]),
    "around it white space": ({"token": f" {SECRET}\n"}, [SECRET]),
    "lines": (
        {"private_key": "-----BEGIN-----\nabcdefghijklmnopqrstuvwxyz\nab\n"},
        [
            "-----BEGIN-----\nabcdefghijklmnopqrstuvwxyz\nab",
            "abcdefghijklmnopqrstuvwxyz",
        ],
    ),
    "short ones": ({"password": "hunt2", "pin": "1234"}, []),
    "numbers that are everywhere": ({"otp": "123456", "pin": 1234567, "cvc": "12.50"}, []),
    "common words": ({"password": "Production", "secret": "default", "token": "undefined"}, []),
    "words of names": ({"password": "Password", "secret": "authorization", "token": "apikey"}, []),
    "names of parameters": ({"password": "nickname", "nickname": "ada"}, []),
    "lines and indents": ({"password": "        ", "secret": "----------"}, []),
    "nothing": ({"password": None, "secret": True, "token": ""}, []),
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_removed(case: str) -> None:
    kwargs, secrets = TAKEN[case]
    assert taken(kwargs) == secrets


def test_what_is_removed_by_position_and_by_rule() -> None:
    assert taken({}, args=("ada", SECRET), names=("user", "password")) == [SECRET]
    ruled = Encoder(redaction=Redaction(rule=lambda path, _: path[-1] == "diagnosis"))
    assert taken({"diagnosis": "hay fever", "room": "room 101"}, ruled) == ["hay fever"]


def test_there_are_not_many() -> None:
    assert len(taken({"secrets": [f"secret{number:04}" for number in range(10_000)]})) == MAX_SECRETS
    assert taken({"secret": "x1" * 40_000, "token": SECRET}) == ["x1" * (MAX_SIZE // 2)]
    assert taken({"secret": "x1" * (MAX_SIZE // 2 - 1), "token": SECRET}) == ["x1" * (MAX_SIZE // 2 - 1)]
    assert taken({"note": "x" * 100_000, "password": SECRET}) == [SECRET]


def test_what_takes_long_is_not_looked_at() -> None:
    rows = [{"pin": number % 100, "password": "x" * 10} for number in range(9_000)]
    kwargs = {"token": "a:" * 1_000_000, "text": "password=" + "y" * 10_000_000, "rows": rows}
    limit = 0.5 + 2 * quick.seconds(lambda: ENCODER.arguments((), kwargs), 0)
    assert quick.seconds(lambda: taken(kwargs), limit) < limit
    assert secrets_in(["1234"] * 1_000 + [SECRET], Redaction(), ()) == []


def test_no_code_of_the_user_runs() -> None:
    values = [hostile(str, SECRET), hostile(bytes, b"in bytes"), hostile(dict, {"a": "in a dict"}), hostile(object)]
    kwargs = {"secrets": values, "token": hostile(str, "token!"), hostile(str, "key"): 1}
    with armed():
        secrets = taken(kwargs)
    assert secrets == [SECRET, "in bytes", "in a dict", "token!"]


def test_the_soft_time_limit_is_the_task_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def strike(*_: Any) -> None:
        raise SoftTimeLimitExceeded

    monkeypatch.setattr("celery_asynctask.capture.payload.secrets._Leaves.convert", strike)
    with pytest.raises(SoftTimeLimitExceeded):
        taken({"secrets": ["first one"]})


# -- real errors ---------------------------------------------------------------------------


def validation(secret: str) -> None:
    Login(user="ada", password=secret)


def command(secret: str) -> None:
    subprocess.run([sys.executable, "-c", "raise SystemExit(3)", "--key", secret], check=True)


def nested(secret: str) -> None:
    try:
        int(secret)
    except ValueError as exc:
        raise RuntimeError("cannot log in") from exc


EMPTY: dict[str, str] = {}
ERRORS: dict[str, Callable[[str], Any]] = {
    "ValueError of int": int,
    "KeyError": EMPTY.__getitem__,
    "KeyError of a repr": lambda secret: EMPTY[repr(secret)],
    "FileNotFoundError": lambda secret: Path(f"/nonexistent/{secret}").read_bytes(),
    "LookupError": "x".encode,
    "KeyError of a dict": lambda secret: EMPTY[str({"k": secret.encode()})],
    "CalledProcessError": command,
    "ValidationError": validation,
    "chained": nested,
}


@pytest.mark.parametrize("secret", [SECRET, 'it\'s "quoted" \\ é\n€', "correct horse battery staple"])
@pytest.mark.parametrize("case", ERRORS)
def test_real_errors(case: str, secret: str) -> None:
    encoder = knowing(*taken({"password": secret}))
    with pytest.raises(Exception) as caught:
        ERRORS[case](secret)
    text = "".join(traceback.format_exception(caught.value))
    assert any(part in text for part in ("hunter2", "quoted", "battery"))
    for said in (error_message(caught.value, encoder), encoder.traceback(text), reason_text(caught.value, encoder)):
        assert said is not None
        assert "hunter2" not in said
        assert "quoted" not in said
        assert "battery" not in said


def test_notes_and_groups() -> None:
    key = "-----BEGIN KEY-----\nMIIEowIBAAKCAQEA1234567890\n-----END KEY-----"
    encoder = knowing(*taken({"tls_key": key, "password": SECRET}))
    text = f"  | ValueError: cannot read {key}".replace("\n", "\n  | ") + f"\n  | tried as {SECRET}\n"
    shown = encoder.traceback(text)
    assert shown is not None
    assert "MIIEow" not in shown
    assert SECRET not in shown


# -- forms ---------------------------------------------------------------------------------


def encoded(value: str) -> bytes:
    return value.encode("utf-8", "replace")


FORMS: dict[str, Callable[[str], str]] = {
    "itself": str,
    "repr": lambda value: repr(value)[1:-1],
    "repr with the other quotes": lambda value: repr(f"'\"{value}")[4:-1],
    "repr of a repr": lambda value: repr(f"\"'{value!r}")[5:-2],
    "ascii": lambda value: ascii(value)[1:-1],
    "bytes": lambda value: repr(encoded(value))[2:-1],
    "repr of bytes": lambda value: repr(f"{encoded(value)!r}")[3:-2],
    "JSON": lambda value: json.dumps(value)[1:-1],
    "JSON, not ASCII": lambda value: json.dumps(value, ensure_ascii=False)[1:-1],
    "JSON in JSON": lambda value: json.dumps(json.dumps(value))[3:-3],
    "HTML": html.escape,
    "URL": lambda value: urllib.parse.quote(value, safe="", errors="replace"),
    "path of a URL": lambda value: urllib.parse.quote(value, errors="replace"),
    "query": lambda value: urllib.parse.quote_plus(value, errors="replace"),
    "lower case escapes": lambda value: re.sub(
        "%..", lambda match: match[0].lower(), urllib.parse.quote(value, errors="replace")
    ),
    "base64": lambda value: base64.b64encode(encoded(value)).decode().rstrip("=")[:-1],
    "URL-safe base64": lambda value: base64.urlsafe_b64encode(encoded(value)).decode().rstrip("=")[:-1],
    "basic auth": lambda value: base64.b64encode(b"ada:" + encoded(value)).decode()[6:-2],
    "in the middle of base64": lambda value: base64.b64encode(b"adams:" + encoded(value) + b"!!").decode()[8:-4],
    "at the end of base64": lambda value: base64.b64encode(b"adam:" + encoded(value)).decode()[7:-2],
    "hex": lambda value: encoded(value).hex(),
}
AROUND = {
    "basic auth": lambda value: base64.b64encode(b"ada:" + encoded(value)).decode(),
    "in the middle of base64": lambda value: base64.b64encode(b"adams:" + encoded(value) + b"!!").decode(),
    "at the end of base64": lambda value: base64.b64encode(b"adam:" + encoded(value)).decode(),
    "base64": lambda value: base64.b64encode(encoded(value)).decode(),
    "URL-safe base64": lambda value: base64.urlsafe_b64encode(encoded(value)).decode(),
}
"""What is written where that is more than the characters that depend on the value alone."""
SIGNS = "&<>'\"\\+/=%?\n\t.éÿ€😀"
EDGES = st.sampled_from("a0Zé'\"\\&?>")
SECRETS = st.builds(
    "{}{}{}".format, EDGES, st.text(st.characters() | st.sampled_from(SIGNS), min_size=4, max_size=60), EDGES
).filter(lambda value: bool(taken({"password": value})))
"""Values that redaction finds: almost all that have no white space around them."""


@given(SECRETS, st.sampled_from([*FORMS]), st.text(max_size=60), st.text(max_size=60))
def test_no_form_of_a_secret_comes_out(secret: str, form: str, before: str, after: str) -> None:
    form_of_it = FORMS[form](secret)
    written = AROUND.get(form, FORMS[form])(secret)
    assume(form_of_it not in f"{before} *** {after}")  # the rest of the text says the same
    out = Secrets([secret]).removed_from(f"{before} {written} {after}")
    assert form_of_it not in out


@pytest.mark.parametrize("secret", ["a<b>&'c' of \"d\"", "it's \x07\u20ac ÿÿ??>>~~", 'say "x\\y"\n.', "back\\\\slash'"])
@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_an_odd_secret_comes_out(form: str, secret: str) -> None:
    written = AROUND.get(form, FORMS[form])(secret)
    out = Secrets([secret]).removed_from(f"said {written}!")
    assert re.fullmatch(r"said ['\\]*\*\*\*\\*!", out), "nothing but the quotes around it, and what escapes them"


@given(SECRETS, SECRETS, st.lists(st.sampled_from(["a", "b", " ", "x"]), max_size=5))
def test_secrets_in_each_other_do_not_come_out(one: str, other: str, between: list[str]) -> None:
    assume("*" not in one + other)
    text = one.join([other, *between, other + one[:3]])
    out = Secrets([one, other]).removed_from(text)
    assert one not in out
    assert other not in out


@given(SECRETS, st.integers(0, 200), st.sampled_from(["", "...", "…", "'", " "]))
def test_the_beginning_and_the_end_of_a_long_secret_do_not_come_out(part: str, more: int, sign: str) -> None:
    secret = f"x{part}{'0123456789' * 3}{part}z".replace("..", ". ")
    size = PART + more % (len(secret) - PART)
    out = Secrets([secret]).removed_from(f"value={secret[:size]}{sign}")
    assert secret[:PART] not in out
    if sign:
        assert secret[-PART:] not in Secrets([secret]).removed_from(f"value={sign}{secret[-size:]}")


def test_what_only_begins_like_a_secret_stays() -> None:
    removed_from = Secrets(["/srv/shop/current/certs/tls.key"]).removed_from
    frame = 'File "/srv/shop/current/shop/tasks.py", line 3'
    assert removed_from(frame) is frame
    other = "/other/place/current/certs/tls.key"
    assert removed_from(other) is other
    assert removed_from("no /srv/shop/current/certs/tls.key") == "no ***"


def test_a_secret_at_the_cut_of_a_message_is_not_seen() -> None:
    long = "x1" * 700
    encoder = knowing(SECRET, long)
    for before in range(MAX_MESSAGE - 40, MAX_MESSAGE + 2_100, 7):
        # What is removed makes room for what the cut has left of another secret.
        message = error_message(ValueError(f"{long} {long} " + "y" * (before - 2 * len(long)) + SECRET * 9), encoder)
        assert SECRET[:4] not in message
        assert "x1x1" not in message


def test_base64_goes_as_a_whole() -> None:
    """The characters around those of a value hold a part of it."""
    word = base64.b64encode(f"ada:{SECRET}!".encode()).decode()
    assert Secrets([SECRET]).removed_from(f"Basic {word}, {word}") == "Basic ***, ***"


def test_texts_without_secrets_are_the_same() -> None:
    text = "Nothing to see here: 15 tasks, 99 of them hunters"
    assert Secrets([SECRET]).removed_from(text, cut=True) is text
    assert Secrets([]).removed_from(text, cut=True) is text


@pytest.mark.parametrize(
    ("secrets", "text"),
    [
        (["ab" * 16_000], "ab"),
        ([f"{number:02}" + "ab'\"\\é" * 160 for number in range(32)], "ab'\"\\é"),
        (["ab'\"\\é" * 160 + f"{number:02}" for number in range(32)], "ab'\"\\é"),
        (["abcabcabcabc"], "YWJj"),
        (["a" * number + "b" for number in range(6, 38)], "a"),
        (["\\" * 2_000 + "b"], "\\"),
    ],
)
def test_no_text_takes_long(secrets: list[str], text: str) -> None:
    assert quick.seconds(lambda: Secrets(secrets).removed_from((text * 22_000)[:22_000], cut=True), 1) < 2


# -- values --------------------------------------------------------------------------------


def test_results_and_content_lose_them_too() -> None:
    encoder = knowing(SECRET, "4242424242424242", "sixsix")
    gone = {"$asynctask": "redacted"}
    stars = {**gone, "text": "***"}
    assert encoder.value(
        {"said": SECRET, "card": 4242424242424242, "n": 42, "short": "sixsix", "b": SECRET.encode()}
    ) == {
        "said": stars,
        "card": gone,
        "n": 42,
        "short": stars,
        "b": stars,
    }
    assert encoder.value([f"I am {SECRET}", 4242424242424242]) == [{**gone, "text": "I am ***"}, gone]
    assert encoder.value(4242424242424242) == gone
    assert encoder.value({"sixsix": 1}) == {"***": 1, "$asynctask": {"$asynctask": "keys"}}
    assert encoder.value(b"\xff" + SECRET.encode()) == gone
    assert knowing("hun\0ter\ud800").value("I am hun\0ter\ud800") == {**gone, "text": "I am ***"}
    small = Encoder(300, Redaction()).knowing([SECRET])
    for before in range(150, 350):
        assert SECRET[:5] not in json.dumps(small.value("x" * before + SECRET * 3))


class Whole(int): ...


class Card(enum.IntEnum):
    MINE = 4242424242424242


@pytest.mark.parametrize(
    "given", [4242424242424242, -4242424242424242, 4242424242424242.0, "-4242424242424242", Whole(4242424242424242)]
)
def test_a_number_is_found_in_every_form(given: Any) -> None:
    number, gone = 4242424242424242, {"$asynctask": "redacted"}
    encoder = ENCODER.knowing(taken({"card_number": given}))
    for form in number, -number, float(number), -float(number), Whole(number), Card.MINE:
        assert encoder.value({"a": form, "b": [form]}) == {"a": gone, "b": [gone]}
        assert encoder.value({form: 1}) == {"***": 1, "$asynctask": {"$asynctask": "keys"}}
        assert str(number) not in json.dumps(encoder.arguments((form,), {"x": {(form, 1): form}}))
    if not isinstance(given, str):
        assert encoder.text(f"no {number} or -{number}", 99) == "no *** or -***"
    for other in number + 1, number / 3, 10**400, float("inf"), 4242:
        assert encoder.value([other]) == ENCODER.value([other])
    assert ENCODER.knowing(["10000000"]).value([10_000_000, -1e7, 9_999_999]) == [gone, gone, 9_999_999]


def test_an_encoder_without_redaction_knows_nothing() -> None:
    assert taken({"password": SECRET}, Encoder()) == []
    assert Encoder().knowing([SECRET]).value(SECRET) == SECRET
