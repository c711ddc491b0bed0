"""The causes of failures: normalized messages, places in the user's own code, groups."""

from __future__ import annotations

import datetime as dt
import re
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_asynctask.queries.failures.fingerprint import MESSAGE_SHOWN, normal, pieces, place
from celery_asynctask.queries.failures.groups import BUCKETS, MESSAGE_START, Failure, Failures, grouped
from tests import quick

START = dt.datetime(2025, 6, 15, 12, tzinfo=dt.timezone.utc)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", ""),
        ("no money", "no money"),
        ("order 17 of 1,200.50 took -3.2e5 ms", "order # of # took # ms"),
        ("row17 in batch_9 of worker2", "row# in batch_# of worker#"),
        ("invalid literal: 'abc def'", "invalid literal: '…'"),
        ("can't read the user's file 'x'", "can't read the user's file '…'"),
        ("'it\\'s'", "'…'"),
        ('no key "a\\"b" in `t`', 'no key "…" in `…`'),
        ("cut off in 'the midd", "cut off in '…'"),
        ("task 5f0c2a11-1111-4abc-8def-0123456789ab is gone", "task <id> is gone"),
        ("commit 9fceb02d0ae598e95dc970b74767f19372d61af8", "commit <id>"),
        ("token a8Kd93kfLq01 and Oauth2Error", "token <id> and Oauth#Error"),
        ("<Cart object at 0x7f3a5c0d1e80>", "<Cart object at <address>>"),
        ("connect to 10.0.0.17:5432 failed", "connect to <address> failed"),
        ("connect to [fe80::1:2:3]:80 failed", "connect to <address> failed"),
        ("no mailbox ada.l+x@mail.example.com", "no mailbox <address>"),
        ("GET https://api.example/v1/carts/17?full=1 failed", "GET https://… failed"),
        ("since 2026-01-31T14:05:00.123Z", "since <time>"),
        ("since 2026-01-31 14:05:00+00:00, or 2026-02-01", "since <time>, or <time>"),
        ("No such file: /var/lib/shop/17/orders-9fceb02d.csv", "No such file: <path>"),
        ("cannot open ~ada/in.csv or ./data/in.csv now", "cannot open ~ada/in.csv or <path> now"),
        (r"C:\data\ada.csv and \\server\share\in.csv", "<path> and <path>"),
        ("no text/html, and/or </div></p> on 1/2", "no text/html, and/or </div></p> on #/#"),
        ("two\n  lines\tand more", "two lines and more"),
    ],
)
def test_normal(message: str, expected: str) -> None:
    assert normal(message) == expected


DUPLICATE = """(psycopg.errors.UniqueViolation) duplicate key value violates unique constraint "users_email_key"
DETAIL:  Key (lower(email), shop)=({}, 7) already exists.
[SQL: INSERT INTO users (email) VALUES (%(email)s)]"""
MYSQL = """(pymysql.err.IntegrityError) ({}, "{} entry '{}' for key 'users.email'")
[SQL: INSERT INTO users (email) VALUES (%(email)s)]"""


@pytest.mark.parametrize(
    "messages",
    [
        [DUPLICATE.format(value) for value in ("ada@example.com", "o'brien (II)", "", "=(", "x" * 200)],
        [MYSQL.format(1062, "Duplicate", value) for value in ("ada", "bob's", "17-x", "x" * 200)],
        ["customer „Ada“ is gone", "customer „Bob Meyer“ is gone"],
        ["client «Ada» absent", "client « Bob » absent"],
        ["Kunde »Ada« fehlt", "Kunde »Bob Meyer« fehlt"],
        ["no “Ada”, nor ‘Bob’s’", "no “it’s”, nor ‘x’"],
        ["cannot open /home/ada/in.csv", "cannot open /home/bob/data/out.csv", "cannot open /tmp/x/"],
        ["answered 500 rows", "answered 404 rows"],
        ["order 404 of 500", "order 17 of 20"],
        ["product code 12345 is gone", "product code 99 is gone"],
    ],
    ids=lambda messages: messages[0][:20],
)
def test_failures_of_one_cause_have_one_message(messages: list[str]) -> None:
    assert len({normal(message) for message in messages}) == 1, [normal(message) for message in messages]


@pytest.mark.parametrize(
    "messages",
    [
        ["API answered 404: <html>", "API answered 500: <html>"],
        [
            "404 Client Error: Not Found for url: https://x.example/17",
            "500 Server Error: no for url: https://x.example/1",
        ],
        ["HTTP/1.1 404 Not Found", "HTTP/1.1 401 Unauthorized", "HTTP 503", "HTTP/2 502"],
        ["status code 404", "status_code=500", "status: 502", "Error code: 429 - {'error': 'x'}", "returned 404"],
        [
            "exited with code 3",
            "exited with code 4",
            "exit status 1",
            "exit status -9",
            "signal 9 (SIGKILL)",
            "signal 15",
        ],
        ["[Errno 2] No such file", "[Errno 13] No such file"],
        [MYSQL.format(1062, "Duplicate", "x"), MYSQL.format(1586, "Duplicate", "x"), MYSQL.format(1062, "Wrong", "x")],
        ["(1045, 'Access denied for user')", "(1044, 'Access denied for user')", "ERROR 1046 (3D000): none"],
        ["SQLSTATE[23505]: no", "SQLSTATE[23503]: no", "SQLSTATE: 42P01"],
    ],
    ids=lambda messages: messages[0][:20],
)
def test_numbers_that_say_what_went_wrong_stay(messages: list[str]) -> None:
    assert len({normal(message) for message in messages}) == len(messages)


def test_a_message_of_a_driver_is_still_read() -> None:
    shown = "(pymysql.err.IntegrityError) (1062, \"Duplicate entry '…' for key '…'\") [SQL: INSERT INTO users (email) "
    assert normal(MYSQL.format(1062, "Duplicate", "ada")).startswith(shown)
    assert "Key (lower(email), shop)=(…) already exists." in normal(DUPLICATE.format("ada"))


MESSAGES = st.lists(
    st.sampled_from(
        [
            *(
                "no ",
                "'a b'",
                '"',
                "'",
                "„a“",
                "«a b»",
                "»",
                "“",
                "’",
                "‘x’",
                "(1062, ",
                ")=(",
                "(",
                ")",
                "\\",
                "/a/b",
                "C:",
            ),
            *(
                "17",
                " 4a5b6c7d8e",
                "x@y.example",
                "\n",
                "x",
                "…",
                "#",
                "status 404",
                "HTTP/1.1 404 Not Found",
                " 500",
                "1.",
            ),
            *(
                "14:05",
                " 2026-01-31",
                "https://a.b/c",
                "0x1f",
                "::1",
                "-",
                ".",
                "=",
                "<path>",
                "<",
                "answered ",
                "e5",
                "é",
            ),
        ]
    )
    | st.text(max_size=5)
).map("".join)


@given(MESSAGES | st.text(max_size=300))
def test_normal_stays_short_and_is_its_own(message: str) -> None:
    normalized = normal(message)
    assert len(normalized) <= MESSAGE_SHOWN
    assert normal(normalized) == normalized
    if not re.search("[a-z]{3}|[(]", message, re.IGNORECASE):  # nothing says what a number means
        assert not re.search("[0-9]", normalized)


@pytest.mark.parametrize(
    "piece",
    [
        *("a", "1", "'", '"', "a.", "a@", "1.", "1:", "f:", "[", "://", "a://", "a1", "-", "0x", "`", "\\", "2026-01-"),
        *(
            ")=(",
            ")=(()",
            "„",
            "“",
            "«",
            "»a",
            "‘’a",
            "/",
            "/a",
            "C:\\",
            "\\\\a",
            "(1062, '",
            "status ",
            "http/1.",
            "~",
        ),
        *("'\\", "'a", "exited with ", "error code is "),
    ],
)
def test_normal_of_the_worst_messages_is_quick(piece: str) -> None:
    message = (piece * MESSAGE_START)[:MESSAGE_START]
    assert quick.seconds(lambda: normal(message), 0.05) < 0.05


@given(MESSAGES)
def test_pieces_are_in_the_original_message(message: str) -> None:
    message, at = " ".join(message.split()), 0
    for piece in pieces(normal(message)):
        at = message.index(piece, at) + len(piece)


def frames(*paths: str) -> str:
    lines = [f'  File "{path}", line {number}, in step{number}\n    x()\n' for number, path in enumerate(paths, 1)]
    return f"Traceback (most recent call last):\n{''.join(lines)}ValueError: no\n"


VENV = "/opt/venv/lib/python3.12/site-packages"


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ((f"{VENV}/celery/app/trace.py", "/srv/shop/billing/tasks.py"), "shop/billing/tasks.py:2 step2"),
        (("/srv/a.py", "/srv/b.py", f"{VENV}/requests/api.py", "/usr/lib/python3.12/socket.py"), "/srv/b.py:2 step2"),
        (("tasks.py", "<string>", "<frozen importlib._bootstrap>"), "tasks.py:1 step1"),
        (("/srv/proj/celery/tasks.py",), "proj/celery/tasks.py:1 step1"),
        (("/src/tasks.py", "/src/celery/celery/app/task.py", "/src/kombu/messaging.py"), "/src/tasks.py:1 step1"),
        (("C:\\shop\\tasks.py", "C:\\venv\\Lib\\site-packages\\redis\\client.py"), "C:/shop/tasks.py:1 step1"),
        # The task itself is installed.
        ((f"{VENV}/shop/tasks.py", f"{VENV}/requests/api.py"), "site-packages/shop/tasks.py:1 step1"),
        ((f"{VENV}/shop.py", f"{VENV}/requests/api.py"), "python3.12/site-packages/shop.py:1 step1"),
        # Nothing belongs to the user.
        ((f"{VENV}/celery/app/trace.py", f"{VENV}/requests/api.py"), "site-packages/requests/api.py:2 step2"),
        ((f"{VENV}/celery/app/trace.py", "/usr/lib/python3.12/socket.py"), None),
        ((), None),
    ],
)
def test_place(paths: tuple[str, ...], expected: str | None) -> None:
    assert place(frames(*paths), "shop") == expected


def test_place_of_nothing() -> None:
    assert place(None) is None
    assert place("ValueError: no") is None


def test_place_is_that_of_the_last_of_chained_errors() -> None:
    chained = frames("/srv/first.py")
    chained += "\nThe above exception was the direct cause of the following exception:\n\n" + frames("/srv/second.py")
    assert place(chained) == "/srv/second.py:1 step1"


def test_place_in_what_python_writes() -> None:
    try:
        int("x")
    except ValueError:
        text = traceback.format_exc()
    shown = place(text)
    assert shown is not None
    assert shown.startswith("unit/queries/test_failures.py:")
    assert shown.endswith(" test_place_in_what_python_writes")


def test_place_of_a_traceback_whose_beginning_was_cut() -> None:
    text = frames("/srv/one.py", "/srv/two.py")
    assert place(text[text.index("one") :]) == "/srv/two.py:2 step2"
    assert place(text[text.index("two") :]) is None


def failed(number: int, message: str = "order 1", **extra: object) -> Failure:
    one = Failure(
        id=f"id-{number}",
        name="shop.charge",
        at=START + dt.timedelta(minutes=number),
        created_at=START,
        customer_key="",
        error_type="ValueError",
        message=message,
        traceback=None,
    )
    return one._replace(**extra)  # type: ignore[arg-type]


def test_groups() -> None:
    at = {"traceback": frames("/srv/tasks.py")}
    groups = grouped(
        [
            failed(5, "order 1", customer_key="acme"),
            failed(2, "order 2", customer_key="acme", name="shop.refund"),
            failed(3, "order 3", customer_key="2"),
            failed(4, "order 4", error_type="KeyError"),
            failed(1, "order 5", **at),
            failed(6, "order 6", **at),
        ]
    ).groups
    assert [(one.error_type, one.message, one.place, one.tasks) for one in groups] == [
        ("ValueError", "order #", None, 3),
        ("ValueError", "order #", "/srv/tasks.py:1 step1", 2),
        ("KeyError", "order #", None, 1),
    ]
    first = groups[0]
    assert (first.customers, first.names, first.example) == (2, ["shop.charge", "shop.refund"], "id-5")
    assert (first.first, first.last) == (START + dt.timedelta(minutes=2), START + dt.timedelta(minutes=5))


def test_how_many_at_which_time() -> None:
    minute = dt.timedelta(minutes=1)
    not_sent = "Not sent: upstream task shop.charge [id-1] ended with order 0"
    failures = [failed(number, error_type="KeyError" if number == 10 else "ValueError") for number in (0, 10, 20, 240)]
    held_up = failed(125, not_sent, created_at=START + 100 * minute)
    value, key = grouped([*failures, held_up]).groups
    assert sum(value.counts) == value.tasks == 4
    assert {at: count for at, count in enumerate(value.counts) if count} == {0: 1, 2: 1, 12: 1, BUCKETS - 1: 1}
    assert {at: count for at, count in enumerate(key.counts) if count} == {1: 1}
    assert (value.first_created, value.last_created, key.last_created) == (START, START + 100 * minute, START)
    bounds = Failures([], 0, None, START, START + 240 * minute).bounds
    assert (bounds[0], bounds[1], bounds[-1]) == (START, START + 10 * minute, START + 240 * minute)
    assert grouped([failed(1)]).groups[0].counts == [1, *[0] * (BUCKETS - 1)]
    assert (grouped([]), Failures([], 0, None).bounds) == (Failures([], 0, None), [])


def test_unsent_tasks_count_to_their_cause() -> None:
    not_sent = "Not sent: upstream task shop.charge [id-1] ended with order 7 [x]"
    groups = grouped(
        [
            failed(1, "order 7 [x]", customer_key="acme"),
            failed(9, not_sent, name="shop.mail", customer_key="2"),
            failed(9, f"Not sent: upstream task shop.mail [id-9] ended with {not_sent}", name="shop.index"),
            failed(2, "Not sent: upstream task shop.check [id-0] ended with no stock", name="shop.mail"),
        ]
    ).groups
    assert [(one.message, one.tasks, one.unsent, one.customers) for one in groups] == [
        ("order # [x]", 3, 2, 2),
        ("no stock", 1, 1, 0),
    ]
    assert groups[0].example == "id-1"
    assert groups[0].names == ["shop.charge", "shop.index", "shop.mail"]


def test_unsent_tasks_count_to_the_largest_place() -> None:
    """Its message does not have the place."""
    at = {"traceback": frames("/srv/tasks.py")}
    not_sent = "Not sent: upstream task shop.charge [id-1] ended with order 7"
    groups = grouped([failed(1, **at), failed(2), failed(3), failed(4, not_sent)]).groups
    assert [(one.place, one.tasks, one.unsent) for one in groups] == [(None, 3, 1), ("/srv/tasks.py:1 step1", 1, 0)]
