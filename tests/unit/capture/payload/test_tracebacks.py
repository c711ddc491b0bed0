"""Stored tracebacks: what is too long is cut in the messages, and the frames stay."""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_asynctask.capture.payload import PLAIN, Encoder
from celery_asynctask.capture.payload.redaction import Redaction
from celery_asynctask.core.limits import MAX_TRACEBACK
from celery_asynctask.queries.failures.fingerprint import FRAME, place
from tests import quick
from tests.unit.capture.payload.values import armed, encodable

PAGE = "<html>" + "<p>line</p>\n" * 5_000
HEADER = "Traceback (most recent call last):\n"
BOUND = MAX_TRACEBACK + 100


def written(run: Callable[[], object]) -> str:
    """What Python writes of the error that is raised."""
    with pytest.raises(BaseException) as caught:
        run()
    return "".join(traceback.format_exception(caught.type, caught.value, caught.value.__traceback__))


def kept(text: str) -> str:
    shown = PLAIN.traceback(text)
    assert shown is not None
    assert len(text) > MAX_TRACEBACK
    assert len(shown) <= BOUND
    return shown


def frames_of(text: str) -> list[str]:
    return [match[0] for match in FRAME.finditer(text)]


def answered(body: str = PAGE) -> None:
    raise RuntimeError(f"API answered 500: {body}")


def chained() -> None:
    try:
        answered()
    except RuntimeError as exc:
        raise ValueError(f"no order: {exc}") from exc


def during() -> None:
    try:
        chained()
    except ValueError as exc:
        raise LookupError(str(exc))  # noqa: B904 - this is the case


def long_error() -> None:
    raise RuntimeError(PAGE)


def wrongly_written() -> None:
    compile("ok = 1\n" * 9 + f"x = '{'a' * 90_000}' y\n", "config.cfg", "exec")


def a_text_of_many_lines() -> None:
    raise RuntimeError("\n" * 100_000 + "at the end")


def a_remote_error() -> None:
    raise RuntimeError(f'\n"""\n{HEADER}  File "/srv/remote.py", line 1, in there\nValueError: {PAGE}"""')


@pytest.mark.parametrize(
    ("run", "names", "end"),
    [
        (answered, ["answered"], "<p>line</p>\n\n"),
        (chained, ["answered", "chained"], "<p>line</p>\n\n"),
        (during, ["answered", "chained", "during"], "<p>line</p>\n\n"),
        (wrongly_written, ["wrongly_written"], "SyntaxError: invalid syntax\n"),
        (a_text_of_many_lines, ["a_text_of_many_lines"], "\n\nat the end\n"),
        (a_remote_error, ["there", "a_remote_error"], '<p>line</p>\n"""\n'),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_long_message_leaves_the_frames(run: Callable[[], object], names: list[str], end: str) -> None:
    text = written(run)
    shown = kept(text)
    assert set(frames_of(shown)) == set(frames_of(text))
    assert [name for name in names if f", in {name}\n" in shown] == names
    assert shown.endswith(end)
    assert place(shown) == place(text)
    assert "characters cut]…" in shown or run is wrongly_written


def test_both_ends_of_a_message_stay_and_its_cut_says_how_much_is_missing() -> None:
    shown = kept(written(answered))
    assert shown.startswith(HEADER)
    first, missing, last = re.split(r"…\[(\d+) characters cut\]…", shown)
    assert "RuntimeError: API answered 500: <html><p>line" in first
    assert len(first) + int(missing) + len(last) == len(written(answered))
    assert len(shown) > MAX_TRACEBACK - 100, "the room is used"


def test_what_connects_chained_errors_stays() -> None:
    assert "\n\nThe above exception was the direct cause of the following exception:\n\n" in kept(written(chained))
    assert "ValueError: no order: API answered 500: <html>" in kept(written(chained))


def test_notes_stay() -> None:
    """As Python 3.11 writes them: below the message."""
    assert kept(written(long_error) + "y" * 9_000 + "\nthe last note\n").endswith("the last note\n")


def group(*messages: str) -> str:
    """An exception group as Python 3.11 writes it."""
    lines = [
        "  + Exception Group Traceback (most recent call last):",
        '  |   File "/srv/shop/tasks.py", line 5, in charge_all',
        "  |     raise ExceptionGroup(...)",
        f"  | ExceptionGroup: some failed ({len(messages)} sub-exceptions)",
    ]
    for number, message in enumerate(messages, 1):
        lines.append(f"  {'+-+' if number == 1 else '  +'}---------------- {number} ----------------")
        lines += [f"    | {line}" for line in HEADER.splitlines()]
        lines += [f'    |   File "/srv/shop/{number}.py", line {number}, in charge', "    |     pay()"]
        lines += [f"    | {line}" for line in f"ValueError: {message}".splitlines()]
    return "\n".join([*lines, "    +------------------------------------", ""])


@pytest.mark.parametrize("messages", [("short", PAGE), (PAGE, PAGE, "short"), ("x" * 900,) * 60], ids=len)
def test_a_group_keeps_the_frames_of_all_its_errors(messages: tuple[str, ...]) -> None:
    text = group(*messages)
    shown = kept(text)
    assert frames_of(shown) == frames_of(text)
    assert len(frames_of(text)) == 1 + len(messages)
    assert shown.endswith("    +------------------------------------\n")


def test_a_group_as_python_writes_it() -> None:
    if sys.version_info >= (3, 11):
        error = ExceptionGroup("two", [ValueError("short"), ValueError("x" * 90_000)])  # noqa: F821
        inner = ExceptionGroup("inner", [error, KeyError("k")])  # noqa: F821

        def run() -> None:
            raise ExceptionGroup("outer", [inner])  # noqa: F821

        text = written(run)
    else:
        text = group("short", "x" * 90_000)
    shown = kept(text)
    assert frames_of(shown) == frames_of(text)
    assert "ValueError: short" in shown


def ping(depth: int) -> None:
    pong(depth - 1)


def pong(depth: int) -> None:
    if depth < 0:
        raise RecursionError("x" * 30_000)
    ping(depth)


def again(depth: int) -> None:
    if not depth:
        answered()
    again(depth - 1)


def test_of_too_many_frames_the_last_stay() -> None:
    text = written(lambda: ping(300))
    shown = kept(text)
    assert shown.startswith("[")
    missing, _, rest = shown[1:].partition(" characters cut]…\n")
    assert int(missing) == len(text) - len(rest)
    assert frames_of(shown) == frames_of(text)[-len(frames_of(shown)) :]
    assert len(frames_of(shown)) > 100
    assert "\nRecursionError: xxx" in shown


def test_what_python_says_of_a_recursion_stays() -> None:
    text = written(lambda: again(200))
    assert "  [Previous line repeated 1" in kept(text)
    assert frames_of(kept(text)) == frames_of(text)


def test_long_lines_of_code_are_cut() -> None:
    """Like those of generated code."""
    code = f"x = 1; y = '{'a' * 200_000}'; raise ValueError('the end')\n"
    linecache.cache["<made>"] = (len(code), None, [code], "<made>")
    text = written(lambda: exec(compile(code, "<made>", "exec")))
    shown = kept(text)
    assert frames_of(shown) == frames_of(text)
    assert "x = 1; y = 'aaaa" in shown
    assert shown.endswith("ValueError: the end\n")


def test_a_text_that_is_no_traceback_keeps_both_ends() -> None:
    assert PLAIN.traceback("Traceback") == "Traceback"
    assert PLAIN.traceback(None) is PLAIN.traceback("") is PLAIN.traceback(object()) is None
    shown = kept("the beginning" + "x" * MAX_TRACEBACK + "\nValueError: the end")
    assert shown.startswith("the beginning")
    assert shown.endswith("ValueError: the end")


def test_a_traceback_that_is_short_enough_is_stored_as_it_is() -> None:
    text = written(lambda: answered("x" * 15_000))
    assert PLAIN.traceback(text) == text


@pytest.mark.parametrize("secret", ["SEKRIT" * 2, "SEKRIT" * 99])
@pytest.mark.parametrize("room", [0, 400, 900])
def test_a_secret_at_a_cut_is_not_seen(secret: str, room: int) -> None:
    encoder = Encoder(redaction=Redaction())
    begin = f'{HEADER}  File "/srv/a.py", line 1, in f\nValueError: '
    for length in range(600):
        first, last = "a" * (14_500 + length), "c" * (room + 4_000 + length)
        shown = encoder.traceback(f"{begin}{first} password='{secret}' {'b' * 9_000} token={secret} {last}")
        assert shown is not None
        assert "RIT" not in shown


@pytest.mark.parametrize(
    "secret",
    ["password='{}'", "https://user:{}@shop.example/", "eyJhbGciOi{}.eyJzdWIiOi{}.c2ln"],
    ids=["name", "address", "token"],
)
def test_a_secret_at_the_end_of_what_is_read_is_not_seen(secret: str) -> None:
    """What is redacted beside it makes room for what was read in addition."""
    encoder = Encoder(redaction=Redaction())
    hidden = secret.replace("{}", "SEKRIT" * 30)
    shrinks = f"token={'y' * 4_000}"
    for length in range(0, 700, 7):
        for begin, end in ((14_600, 9_000), (12_900, 9_000), (20_000, 4_600), (20_000, 2_400)):
            body = f"{shrinks} {'a' * (begin + length)} {hidden} {'b' * (end + length)} {shrinks}"
            traced = encoder.traceback(f"{HEADER}ValueError: {body}")
            assert traced is not None
            assert "RIT" not in traced
            assert "RIT" not in encoder.text(body, begin - 2_000)


FRAME_LINES = '  File "a.py", line 1, in f\n    f()\n'


@pytest.mark.parametrize(
    "make",
    [
        lambda: "x" * 10**8,
        lambda: "\n" * 10**8,
        lambda: HEADER[:-2] * 10**6,
        lambda: f"x{HEADER}" * 10**6,
        lambda: HEADER * 10**6,
        lambda: HEADER + FRAME_LINES * 10**5,
        lambda: (HEADER + FRAME_LINES) * 10**5,
        lambda: HEADER + '  File "a.py", line 1, in f\n    ' + "x" * 10**8,
        lambda: f"{'| ' * 90}{HEADER}" * 10**5,
        lambda: HEADER + ("  " + "x=" * 2_000 + "\n") * 10**4,
        lambda: (HEADER + "  password=" + "y" * 3_000 + "\nE: " + "token: z " * 2_000) * 200,
        lambda: (HEADER + "  a=b\n" * 16_000) * 100,
    ],
    ids=range(12),
)
def test_the_work_is_bounded_whatever_the_text(make: Callable[[], str]) -> None:
    text = make()
    encoder = Encoder(redaction=Redaction())
    with armed():
        shown = encoder.traceback(text)
        assert quick.seconds(lambda: encoder.traceback(text), 0.5) < 0.5, "it takes milliseconds"
    assert shown is not None
    assert len(shown) <= BOUND


PIECES = [
    HEADER,
    "  + Exception Group ",
    '  File "a.py", line 1, in f\n',
    "    f()\n",
    "E: x\n",
    "\n",
    " | ",
    "y" * 5_000,
]


@given(st.lists(st.sampled_from([*PIECES, "\0", "\ud800", "  " * 900])).map("".join))
def test_every_text_is_bounded_and_short_ones_are_whole(text: str) -> None:
    shown = PLAIN.traceback(text)
    assert (shown is None) == (not text)
    if shown is not None:
        assert encodable(shown)
        assert len(shown) <= BOUND
        if len(text) <= MAX_TRACEBACK:
            assert len(shown) == len(text)
