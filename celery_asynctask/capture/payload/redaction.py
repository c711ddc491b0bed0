"""Decides what must not be recorded: by sensitive names, by credentials in texts, by a user's own rule, and by what
these took from the same task's arguments.

Pure. The names are in `names`; what is a secret in a text in `shapes`, `commands` and `tokens`, and here as far as a
sign, ``=`` or ``:``, is between a name and its value.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from billiard.exceptions import SoftTimeLimitExceeded

from celery_asynctask.capture.payload import commands, shapes
from celery_asynctask.capture.payload.hints import may_change, may_have_command
from celery_asynctask.capture.payload.names import SENSITIVE_NAMES, Names, name_words
from celery_asynctask.capture.payload.tokens import STARS, starred, without_tokens

if TYPE_CHECKING:
    from celery_asynctask.capture.payload.secrets import Secrets

Path = tuple[str | int, ...]
"""The place of a value: ``args``, ``kwargs``, ``result`` or ``content``, then keys and list indexes. A positional
argument has its parameter's name if that is known: ``("args", "card", "number")``."""
Rule = Callable[[Path, Any], bool]
"""A user's own rule, called for every value, not for keys: True redacts. It gets the value itself, not a copy."""

MIN_VALUE: Final = 6
"""Fewest characters of a value that is removed from texts because redaction took it from the arguments: a shorter one
is part of too many words."""


class Redaction(Names):
    """Redacts by name, by a rule, and inside texts. Immutable except for its cache of verdicts; safe for threads."""

    def __init__(
        self,
        names: Iterable[str] = SENSITIVE_NAMES,
        rule: Rule | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        """``names`` are as in `SENSITIVE_NAMES`, in any style of writing. If ``rule`` raises, the value is redacted and
        ``on_error`` is called with the exception. Raises `ValueError` for a name without a letter or digit."""
        super().__init__(names)
        self.rule = rule
        self.secrets: Secrets | None = None
        """Values that are redacted in texts, wherever they stand."""
        self._on_error = on_error

    def knowing(self, secrets: Secrets) -> Redaction:
        """The same, which also redacts these values in texts."""
        known = copy.copy(self)
        known.secrets = secrets
        return known

    def asks(self, path: Path, value: Any) -> bool:
        """Whether the user's rule redacts this value, or raises."""
        if self.rule is None:
            return False
        try:
            return bool(self.rule(path, value))
        except SoftTimeLimitExceeded:  # it is the task's: a signal handler raises it at any instruction
            raise
        except Exception as exc:  # noqa: BLE001 - a user's rule may raise anything
            if self._on_error is not None:
                self._on_error(exc)
            return True

    def text(self, value: str, *, message: bool = False, cut: bool = False) -> str:
        """The text without the credentials in it: in URLs and their queries, in the shapes of `shapes`, `commands` and
        `tokens`, in ``name=value`` and header lines; and without `secrets`. The same object if it has none.

        ``message``: the text is an error message or traceback, in which ``name: value`` in the middle of a line counts,
        too, and what databases and pydantic quote with a name. ``cut``: the text is the beginning of a longer one, so a
        URL may lack the ``@`` that ends its credentials.
        """
        if self.secrets is not None:
            value = self.secrets.removed_from(value, cut=cut)
        if not may_change(value):
            return value
        value = starred(value, shapes.spans(value, self.sensitive, message=message, cut=cut))
        if may_have_command(value):
            value = starred(value, commands.spans(value, self.sensitive))
        if "://" in value:
            value = _USER_INFO.sub(f"://{STARS}@", value)
            value = _ODD_USER_INFO.sub(f"://{STARS}@", value)
            if cut:
                value = _OPEN_USER_INFO.sub(f"://{STARS}", value)
        if "=" in value or ":" in value or "\uff1a" in value or "\uff1d" in value:
            value = self._pairs(value, message)
        return without_tokens(value)

    def changes(self, value: str) -> bool:
        """Whether `text` takes anything from a text."""
        return self.text(value) != value

    def _pairs(self, value: str, message: bool) -> str:
        kept: list[str] = []
        done = at = 0
        while (sign := _SIGN.search(value, at)) is not None:
            at = sign.end()
            before = _EMAN.match(value[max(done, sign.start() - _LOOK_BACK) : sign.start()][::-1])
            if before is None:
                continue
            name, start = before["eman"][::-1], sign.start() - before.end()
            query = start > 0 and value[start - 1] in "?&"
            if not self.sensitive(name) and not (query and (name in _IN_QUERY or name_words(name)[-1:] in _SIGNATURES)):
                end = start + len(name)
                length = self.length_at_end(value[max(done, end - _LOOK_BACK) : end], name)
                if not length:
                    continue
                name, start = value[end - length : end], end - length
            colon = sign[0].rstrip() in _COLONS
            secret = _QUOTED.match(value, at)
            if secret is None:
                ahead = value[start - 1] if start else ""
                starts_line = colon and _LINE_START.match(value[max(0, start - _LOOK_BACK) : start][::-1]) is not None
                opened = colon and ahead in _MARKS and not before["quote"]  # 'X-Api-Key: a', /password:a
                if colon and not (starts_line or opened or message or before["quote"] or _NO_PROSE(name)):
                    continue
                pattern = _OPENED[ahead] if opened else _BARE_OR_BLOCK if colon else _BARE
                if starts_line and name_words(name)[-1:] in _LINES:
                    pattern = _LINE
                secret = pattern.match(value, at)
                if secret is None or (colon and len(secret[0]) < _MIN_SECRET):
                    continue
            elif secret[0] in _EMPTY:
                continue
            if name == "code" and len(secret[0]) < MIN_VALUE and not self.sensitive(name):
                continue
            quotes = _QUOTES.match(secret[0])
            kept += (value[done:at], quotes[1], STARS, quotes[2]) if quotes else (value[done:at], STARS)
            done = at = secret.end()
        return "".join([*kept, value[done:]]) if kept else value


def removed(value: str, shown: str) -> Iterator[str]:
    """What `Redaction.text` replaced in a text that it has ``shown``; of ``user:password`` the password, too, and each
    also as it is without a URL's escapes."""
    first, *others = shown.split(STARS)
    start = len(first)
    for number, kept in enumerate(others, 1):
        end = len(value) - len(kept) if number == len(others) else value.find(kept, start)
        if end < start:
            return
        part = value[start:end]
        _, colon, password = part.partition(":")
        for one in (part, password) if colon else (part,):
            yield one
            if "%" in one:
                yield unquote(one)
        start = end + len(kept)


_USER_INFO = re.compile(r"""://(?!git@|\*\*\*@)[^\s/?#"'<>]*@""")
_ODD_USER_INFO = re.compile(r"""://[^\s/?#"'<>@:,]{0,99}:(?!\d{1,5}(?:[/?#\s"'<>,]|$))[^\s"'<>@]{0,300}@""")
"""With a password that should have been quoted, because it contains ``/``, ``?`` or ``#``."""
_OPEN_USER_INFO = re.compile(
    r"""://(?!\*\*\*@)[^\s/?#"'<>@]*$|://[^\s/?#"'<>@:]{0,99}:(?!\d{1,5}[/?#])[^\s"'<>@]{0,300}$"""
)
_SIGN = re.compile(r"(?:=>|:=|=(?!=)|::(?=[ \t])|:(?!//)|[\uff1a\uff1d])[ \t\xa0\u3000]*")
"""The last two are those of Chinese and Japanese, with a blank of theirs."""
_COLONS = (":", "::", "\uff1a")
_EMAN = re.compile(
    r"""[ \t]*\]?(?P<quote>["']|;(?:touq|sopa|[49]3#|[27]2x#)&|[27]200u\\)?\\*(?P<eman>[\w.\-\[\]]{0,63}[^\W\d])"""
)
"""A name, its closing quote (also as HTML or JSON escape it) and bracket, backwards from the sign."""
_LOOK_BACK = 80
_LINE_START = re.compile(r"[ \t\-]*(?:\n|$|[nr]?\\|\{)")
_ENTITY = r"&(?:quot|apos|#3[49]|#x2[27]);"
_QUOTED = re.compile(
    r"""[bBuUrRN]{0,2}(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|\\u002[27](?:(?!\\u002[27]).)*|\\+"[^"]*"?|\\+'[^']*'?)"""
    rf"""|[\[({{][^\])}}]*[\])}}]?|{_ENTITY}(?:(?!{_ENTITY}).)*""",
    re.S,
)
_QUOTES = re.compile(r"""([bBuUrRN]{0,2}\\*["'\[({]).*?((?:\\*["'\])}])?)\Z""", re.S)
_EMPTY = ('""', "''", "[]", "()", "{}")
_BARE = re.compile(r"""(?:(?:bearer|basic|digest|token|negotiate|apikey)[ \t]+)?[^\s,;&"'()\[\]{}<>]+""", re.I)
_BLOCK = r"[|>][+\-\d]{0,2}[ \t]*\r?\n(?:[ \t]+[^\n]*(?:\n|\Z))+"
"""YAML's text of several lines."""
_BARE_OR_BLOCK = re.compile(f"{_BLOCK}|{_BARE.pattern}", re.IGNORECASE)
_NO_PROSE = re.compile(r".*[A-Za-z][_\-]|[a-z]+[A-Z]|[Aa]uthorization\Z|[Cc]ookies?\Z").match
"""A name that stands before a colon only in front of its value."""
_LINE = re.compile(r"(?:(?!\\[nr])[^\r\n])+")
_OPENED = {'"': re.compile(r'[^\r\n"]+'), "'": re.compile(r"[^\r\n']+"), "/": re.compile(r"""[^\s"']+""")}
"""The values of names that stand behind a mark."""
_MARKS = tuple(_OPENED)
_LINES = {("authorization",), ("cookie",), ("cookies",)}
"""Last words of the names of headers whose values contain spaces."""
_SIGNATURES = {("sig",), ("signature",)}
"""Last words of the names of parameters that sign a URL."""
_IN_QUERY = ("code", "hmac", "ticket")
"""Names of other parameters of URLs whose values let in whoever has them."""
_MIN_SECRET = 4
"""Fewest characters after a colon that are taken for a secret: ``unexpected token: }`` has none."""
