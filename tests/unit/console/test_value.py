"""Values as folded JSON, and tracebacks folded to the user's own frames."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest

from celery_asynctask.capture.payload import Encoder
from celery_asynctask.capture.payload.redaction import Redaction
from celery_asynctask.console import frames, value
from celery_asynctask.core.marks import MARK
from tests.workflows import TRACEBACK

WHOLE = "/tasks/x/values/args.json"


def shown(what: Any) -> value.Shown:
    return value.shown(what if isinstance(what, str) else json.dumps(what), WHOLE)


def words(what: Any) -> str:
    """The text of HTML."""
    text = re.sub(r"</(div|summary|details)>", " ", str(shown(what).html))
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("1.10000000000000000000000001", "1.10000000000000000000000001"),
        ("1e400", "1e400"),
        ("-0.0", "-0.0"),
        ("[]", "[]"),
        ("{}", "{}"),
        ("null", "null"),
        ("[true,false,null]", "[ 3 items ] 0: true 1: false 2: null"),
        ('{"a": [1]}', '{ 1 key } "a": [ 1 item ] 0: 1'),
        ('{"a": null, "b": 1}', '{ 2 keys } "a": null "b": 1'),
        ('"17"', '"17"'),
        ('"a\\u202eb\\u0000\\n"', '"a\\u202eb\\u0000\\n"'),
        ('{"\\u202e": 1}', '{ 1 key } "\\u202e": 1'),
    ],
)
def test_a_value_is_read_as_it_was_stored(text: str, read: str) -> None:
    assert words(text) == read


SAID: list[tuple[Any, str, dict[str, int]]] = [
    ({MARK: "redacted"}, "redacted", {"redacted": 1}),
    ({MARK: "redacted", "text": "card …"}, '"card …" redacted in part', {"redacted": 1}),
    ({MARK: "cut", "type": "str", "size": 12345, "head": "ab"}, '"ab" cut: str of 12,345 characters', {"cut": 1}),
    ({MARK: "cut", "type": "Decimal"}, "cut", {"cut": 1}),
    ([{MARK: "cut", "type": "Decimal"}], "[ 1 item ] 0: cut", {"cut": 1}),
    ([{MARK: "cut", "type": "dict", "size": 9}], "[ 1 item ] 0: cut: dict of 9 items", {"cut": 1}),
    ([1, {MARK: "cut", "type": "list", "size": 900}], "[ 1 item ] cut: list of 900 items 0: 1", {"cut": 1}),
    (
        [{MARK: "cut", "type": "str", "size": 9}],
        "[ 1 item ] 0: cut: str of 9 characters",
        {"cut": 1},
    ),
    (
        {"a": 1, MARK: {MARK: "cut", "type": "dict", "size": 9}},
        '{ 1 key } cut: dict of 9 items "a": 1',
        {"cut": 1},
    ),
    ({"a": 1, MARK: {MARK: "keys"}}, '{ 1 key } stored with other keys "a": 1', {"stored with other keys": 1}),
    ({MARK: "as", "type": "float", "value": "nan"}, '"nan" of type float, which JSON does not have', {"converted": 1}),
    (
        {MARK: "as", "type": "set", "value": [1]},
        "[ 1 item ] of type set, which JSON does not have 0: 1",
        {"converted": 1},
    ),
    ({MARK: "object", "type": "shop.Cart"}, "of type shop.Cart, not looked into", {"described": 1}),
    ({MARK: "cycle", "type": "list", "up": 2}, "the list 2 levels above", {"cyclic": 1}),
    ({MARK: "erased"}, "erased", {"erased": 1}),
    (
        {MARK: "replaced", "text": "a"},
        '"a" stored with characters replaced',
        {"stored with characters replaced": 1},
    ),
    ({"$$asynctask": 1, "$$": 2}, '{ 2 keys } "$asynctask": 1 "$$": 2', {}),
    ({MARK: "of the user's own"}, '{ 1 key } "$asynctask": "of the user\'s own"', {}),
    ({MARK: 5}, '{ 1 key } "$asynctask": 5', {}),
    ({"__type__": "datetime", "__value__": "2026"}, '"2026" a datetime', {}),
]


@pytest.mark.parametrize(("what", "read", "missing"), SAID)
def test_what_is_not_there_says_so(what: Any, read: str, missing: dict[str, int]) -> None:
    assert (words(what), shown(what).missing) == (read, missing)


def test_what_our_own_encoder_leaves_out() -> None:
    encoder = Encoder(400, Redaction(("password",)))
    args, kwargs = encoder.arguments([list(range(500))], {"password": "x", "s": "é" * 1000, "$asynctask": {1, 2}})
    assert "cut: list of 500 items" in words(args)
    assert shown(args).missing == {"cut": 1}
    read = words(kwargs)
    for piece in ('"password": redacted', "cut: str of 1,000 characters", '"$asynctask": [', "of type set, which JSON"):
        assert piece in read


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}\u202e"


@pytest.mark.parametrize(
    "what",
    [
        HOSTILE,
        {HOSTILE: HOSTILE},
        [{MARK: "object", "type": HOSTILE, "repr": HOSTILE}],
        {MARK: "cut", "type": HOSTILE, "size": HOSTILE, "head": HOSTILE},
        {MARK: "cycle", "type": HOSTILE, "up": HOSTILE},
        {"__type__": HOSTILE, "__value__": HOSTILE},
        {"a": 1, MARK: {MARK: "cut", "type": HOSTILE, "size": HOSTILE}},
    ],
)
def test_hostile_values_are_text(what: Any) -> None:
    made = str(shown(what).html)
    assert set(re.findall(r"<([^ >]+)", made)) <= {
        "div", "/div", "span", "/span", "details", "/details", "summary", "/summary", "a", "/a"
    }  # fmt: skip
    assert "\u202e" not in made


def test_what_is_written_is_bounded() -> None:
    wide = shown([[number, {"a": "b"}] for number in range(100_000)])
    assert len(wide.html) < 1_000_000
    assert f'<a href="{WHOLE}">… 99,' in wide.html
    long = shown(["x" * 1_000_000] * 3 + [1])
    assert len(long.html) < 10_000
    assert f'<a href="{WHOLE}">… 998,000 more characters</a>' in long.html
    assert words(["x" * 1_000_000, 1]).endswith("1: 1"), "and what comes after is there"
    many = shown(["x" * 1_999 for _ in range(1_000)])
    assert len(many.html) < 400_000
    deep = shown("[" * 900 + "]" * 900)
    assert "too deep to show" in deep.html
    assert deep.html.count("<details") == value.MAX_DEPTH
    key = shown({"k" * 100_000: 1})
    assert len(key.html) < 1_000
    digits = shown("[" + "9" * 100_000 + "]")
    assert "… 98,000 more characters" in digits.html


@pytest.mark.parametrize("text", ["[" * 200_000 + "]" * 200_000, "[" + "1," * 2_500_000 + "1]", "no json"])
def test_what_cannot_be_looked_into_has_a_link(text: str) -> None:
    made = shown(text).html
    assert "Not shown:" in made
    assert f'<a href="{WHOLE}">download it</a>' in made


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"done": 3, "total": 12, "message": "rows"}, ("3", "12", "rows", 0.25)),
        ({"done": 3, "total": None, "message": None}, ("3", None, "", None)),
        ({"done": 30, "total": 12.0}, ("30", "12.0", "", 1.0)),
        ({"done": -3, "total": 12}, ("-3", "12", "", 0.0)),
        ({"done": 3, "total": 0}, ("3", "0", "", None)),
        ({"done": 3, "total": "12"}, ("3", None, "", None)),
    ],
)
def test_progress(given: Any, expected: Any) -> None:
    progress = value.progress(json.dumps({"progress": given}))
    assert progress is not None
    assert tuple(progress[name] for name in ("done", "total", "message", "part")) == expected


@pytest.mark.parametrize(
    "text",
    [None, "{}", '["progress"]', '{"progress": 5}', '{"progress": {"done": "3"}}', '{"progress": {}}', '{"progress"'],
)
def test_what_is_no_progress(text: str | None) -> None:
    assert value.progress(text) is None


def test_progress_beyond_all_numbers() -> None:
    progress = value.progress('{"progress": {"done": 1, "total": 1e999}}')
    assert progress is not None
    assert progress["part"] is None


def test_a_traceback_is_folded_to_ones_own_frames() -> None:
    assert frames.folded(TRACEBACK, "shop") == (
        "Traceback (most recent call last):\n"
        "  … 1 other frame\n"
        '  File "/srv/app/shop/tasks.py", line 88, in ship\n'
        "    stock.take(order)\n"
        "  … 1 other frame\n"
        "ValueError: no stock"
    )
    assert 'warehouse/stock.py", line 12' in frames.folded(TRACEBACK, "warehouse"), "the task is of that package"


def test_a_traceback_without_own_frames_keeps_the_nearest() -> None:
    rest = TRACEBACK.replace("/srv/app/", "/srv/venv/lib/python3.11/site-packages/")
    read = frames.folded(rest, "x")
    assert "warehouse/stock.py" in read
    assert "  … 2 other frames" in read
    only = frames.folded("\n".join(TRACEBACK.splitlines()[:3]), "x")
    assert "celery/app/trace.py" in only


def test_a_traceback_of_several_errors_and_groups() -> None:
    text = (
        "[20 characters cut]…\n  + Exception Group Traceback (most recent call last):\n"
        '  |   File "/usr/lib/python3.11/asyncio/x.py", line 1, in run\n  |     await x\n  |     ^^^^^^^\n'
        '  |   File "/srv/app/shop.py", line 2, in go\n  |     boom()\n  |   [Previous line repeated 9 more times]\n'
        "  | ExceptionGroup: two (2 sub-exceptions)\n  +-+---------------- 1 ----------------\n"
        "    | ValueError: 1\n    +------------------------------------\n"
        f"\nDuring handling of the above exception, another exception occurred:\n\n{TRACEBACK}"
    )
    read = frames.folded(text, "shop")
    for line in ("[20 characters cut]…", "  … 1 other frame", "ExceptionGroup: two", "During handling", "no stock"):
        assert line in read
    assert "await x" not in read
    assert "^^^^" not in read
    assert "repeated 9 more" in read


@pytest.mark.parametrize("text", ["", "boom", 'File "', "\n" * 20_000, ' File "a", line 1, in b\n' * 800])
def test_any_text_can_be_folded(text: str) -> None:
    frames.folded(text)
