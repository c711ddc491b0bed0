"""Decides what must not be recorded: by sensitive names, by credentials in texts, by a user's own rule, and by what
these took from the same task's arguments.

Pure. A name is judged by its words: ``apiKey``, ``X-API-KEY`` and ``x_api_key`` are all ``api key``, but
``tokenizer``, ``secretary`` and ``max_tokens`` are neither ``token`` nor ``secret``.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from billiard.exceptions import SoftTimeLimitExceeded

if TYPE_CHECKING:
    from celery_asynctask.capture.payload.secrets import Secrets

Path = tuple[str | int, ...]
"""The place of a value: ``args``, ``kwargs``, ``result`` or ``content``, then keys and list indexes. A positional
argument has its parameter's name if that is known: ``("args", "card", "number")``."""
Rule = Callable[[Path, Any], bool]
"""A user's own rule, called for every value, not for keys: True redacts. It gets the value itself, not a copy."""

STARS: Final = "***"
"""Replaces what is redacted in a text."""
MIN_VALUE: Final = 6
"""Fewest characters of a value that is removed from texts because redaction took it from the arguments: a shorter one
is part of too many words."""

SENSITIVE_NAMES: Final[tuple[str, ...]] = (
    *("password", "passwords", "passwd", "pwd", "passphrase", "passcode"),
    *("=pass", "db pass", "user pass", "smtp pass", "mail pass", "redis pass"),
    *("secret", "secrets", "credential", "credentials", "authorization", "=auth"),
    *("basic auth", "http auth", "auth header", "auth key", "auth code", "token", "jwt", "bearer"),
    *("access tokens", "api tokens", "auth tokens", "bearer tokens", "device tokens", "refresh tokens"),
    *("api key", "api keys", "access key", "access keys", "private key", "private keys", "secret key", "account key"),
    *("encryption key", "signing key", "shared key", "shared access key", "master key", "ssh key", "tls key"),
    *("session id", "session key", "session cookie", "=sid", "connect sid", "phpsessid", "jsessionid"),
    *("cookie", "cookies", "csrf", "xsrf"),
    *("card number", "card numbers", "card no", "cc number", "credit card", "cvv", "cvc", "csc", "security code"),
    *("card pin", "=pin", "pin code", "otp", "totp", "mfa code", "verification code", "recovery codes", "backup codes"),
    *("iban", "account number", "ssn", "social security number"),
)
"""The names whose values are redacted, unless the setting ``asynctask_redact`` has others: each one or more words that
a name has in a row, also written together (``apikey``), or with ``=`` the whole name. A name that only describes such a
value is not redacted (``token_type``, ``passwordChangedAt``), nor is ``tokens`` alone: language models count them."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")
_ENDINGS = ("password", "passwd", "passphrase", "secret", "token", "apikey", "credentials")
"""Words that are recognized at the end of a longer word, too: ``csrfmiddlewaretoken``."""


def words_of(words: str) -> frozenset[str]:
    """The words in a text."""
    return frozenset(words.split())


_ABOUT = words_of(
    "alg algorithm at brand budget changed check checks count country created enabled endpoint expired expires "
    "expiration expiry field four hint in index last length len limit name policy present required size status "
    "strength ttl type types updated uri url usage used valid verified version 4"
)
"""Words after a sensitive one with which a name only describes it."""
_NO_TOKEN = words_of("bos cancellation cls continuation eos mask max min next num pad page sep special stop sync unk")
"""Words before ``token`` that give it another meaning."""
_MAX_NAME = 256
"""Characters of a name that are judged."""
_MAX_CACHED = 4_096
"""Most names whose verdict is kept, of at most `_CACHED_LENGTH` characters each."""
_CACHED_LENGTH = 64


def _words(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _WORD.findall(name[:_MAX_NAME]))


class Redaction:
    """Redacts by name, by a rule, and inside texts. Immutable except for its cache of verdicts; safe for threads."""

    def __init__(
        self,
        names: Iterable[str] = SENSITIVE_NAMES,
        rule: Rule | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        """``names`` are as in `SENSITIVE_NAMES`, in any style of writing. If ``rule`` raises, the value is redacted and
        ``on_error`` is called with the exception. Raises `ValueError` for a name without a letter or digit."""
        self.names = tuple(names)
        self.rule = rule
        self.secrets: Secrets | None = None
        """Values that are redacted in texts, wherever they stand."""
        self._on_error = on_error
        self._phrases: set[tuple[str, ...]] = set()
        self._whole: set[str] = set()
        self._openings: set[str] = set()
        for name in self.names:
            words = _words(name)
            if not words:
                raise ValueError(f"{name!r} names nothing")
            if name.startswith("="):
                self._whole.add("".join(words))
                continue
            self._phrases.update((words, ("".join(words),)))
            if len(words) > 1:
                self._openings.add(words[0])
        self._starts = {words[0] for words in self._phrases}
        self._longest = max(map(len, self._phrases), default=0)
        self._endings = tuple(word for word in _ENDINGS if (word,) in self._phrases)
        self.words = frozenset(word for words in self._phrases for word in words) | self._whole
        """The words that the names are made of, each alone and those of one name together."""
        self._verdicts: dict[str, bool] = {}

    def knowing(self, secrets: Secrets) -> Redaction:
        """The same, which also redacts these values in texts."""
        known = copy.copy(self)
        known.secrets = secrets
        return known

    def sensitive(self, name: str) -> bool:
        """Whether the value with this name is redacted. Judges by the first 256 characters."""
        verdict = self._verdicts.get(name)
        if verdict is None:
            verdict = not name.isdecimal() and self._judge(_words(name))
            if len(name) <= _CACHED_LENGTH:
                if len(self._verdicts) >= _MAX_CACHED:
                    self._verdicts.clear()
                self._verdicts[name] = verdict
        return verdict

    def opens(self, name: str) -> bool:
        """Whether the keys of the mapping with this name are judged together with it: ``{"card": {"number": ...}}``."""
        words = _words(name)
        return bool(words) and words[-1] in self._openings

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
        """The text without the credentials in it: in URLs and their queries, ``name=value`` and header lines, quoted
        mappings, bearer tokens, JSON web tokens, private keys; and without `secrets`. The same object if it has none.

        ``message``: the text is an error message or traceback, in which ``name: value`` in the middle of a line counts,
        too, and what databases, pydantic and commands quote with a name. ``cut``: the text is the beginning of a longer
        one, so a URL may lack the ``@`` that ends its credentials.
        """
        if self.secrets is not None:
            value = self.secrets.removed_from(value, cut=cut)
        if message:
            value = self._quoted(value)
        if "://" in value:
            value = _USER_INFO.sub(f"://{STARS}@", value)
            value = _ODD_USER_INFO.sub(f"://{STARS}@", value)
            if cut:
                value = _OPEN_USER_INFO.sub(f"://{STARS}", value)
        if "=" in value or ":" in value:
            value = self._pairs(value, message)
        if "earer " in value:
            value = _BEARER.sub(rf"\1{STARS}", value)
        if "eyJ" in value:
            value = _JWT.sub(STARS, value)
        if "PRIVATE KEY-----" in value:
            value = _PRIVATE_KEY.sub(rf"\1{STARS}", value)
        return value

    def _quoted(self, value: str) -> str:
        if ")=(" in value:
            value = _KEY.sub(self._key, value)
        for sign, pattern in _NAMED:
            if sign in value:
                value = pattern.sub(self._value, value)
        return value

    def _value(self, match: re.Match[str]) -> str:
        """The matched text, with stars in place of its group ``value`` if ``name`` is sensitive."""
        text, start = match[0], match.start()
        if not self.sensitive(match["name"]):
            return text
        return f"{text[: match.start('value') - start]}{STARS}{text[match.end('value') - start :]}"

    def _key(self, match: re.Match[str]) -> str:
        names, values = match["names"].split(", "), match["values"].split(", ")
        hidden = [self.sensitive(name) for name in names]
        if not any(hidden):
            return match[0]
        if len(names) != len(values):  # one of the values has a comma
            return f"({match['names']})=({STARS})"
        shown = (STARS if hide else value for hide, value in zip(hidden, values, strict=True))
        return f"({match['names']})=({', '.join(shown)})"

    def _judge(self, words: tuple[str, ...]) -> bool:
        if "".join(words) in self._whole:
            return True
        for start, word in enumerate(words):
            if word in self._starts or word.endswith(self._endings):
                for end in range(start + 1, min(len(words), start + self._longest) + 1):
                    if (
                        (words[start:end] in self._phrases or (end == start + 1 and word.endswith(self._endings)))
                        and not (end < len(words) and all(following in _ABOUT for following in words[end:]))
                        and not (word == "token" and start and words[start - 1] in _NO_TOKEN)
                    ):
                        return True
        return False

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
            if not self.sensitive(name) and not (query and _words(name)[-1:] in _SIGNATURES):
                continue
            colon = value[sign.start()] == ":"
            secret = _QUOTED.match(value, at)
            if secret is None:
                starts_line = colon and _LINE_START.match(value[max(0, start - _LOOK_BACK) : start][::-1]) is not None
                if colon and not (starts_line or message or before["quote"]):
                    continue
                secret = (_LINE if starts_line and _words(name)[-1:] in _LINES else _BARE).match(value, at)
                if secret is None or (colon and len(secret[0]) < _MIN_SECRET):
                    continue
            elif secret[0] in _EMPTY:
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
_SIGN = re.compile(r"(?:=>|=(?!=)|:(?!//))[ \t]*")
_EMAN = re.compile(r"""[ \t]*\]?(?P<quote>["']?)\\*(?P<eman>[\w.\-\[\]]{0,63}[^\W\d])""")
"""A name, its closing quote and bracket, backwards from the sign."""
_LOOK_BACK = 80
_LINE_START = re.compile(r"[ \t\-]*(?:\n|$)")
_QUOTED = re.compile(
    r"""[bBuUrR]{0,2}(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|\\+"[^"]*"?|\\+'[^']*'?)|[\[({][^\])}]*[\])}]?""", re.S
)
_QUOTES = re.compile(r"""([bBuUrR]{0,2}\\*["'\[({]).*?((?:\\*["'\])}])?)\Z""", re.S)
_EMPTY = ('""', "''", "[]", "()", "{}")
_BARE = re.compile(r"""(?:(?:bearer|basic|digest|token|negotiate|apikey)[ \t]+)?[^\s,;&"'()\[\]{}<>]+""", re.I)
_LINE = re.compile(r"[^\r\n]+")
_LINES = {("authorization",), ("cookie",), ("cookies",)}
"""Last words of the names of headers whose values contain spaces."""
_SIGNATURES = {("sig",), ("signature",)}
"""Last words of the names of parameters that sign a URL."""
_MIN_SECRET = 4
"""Fewest characters after a colon that are taken for a secret: ``unexpected token: }`` has none."""
_BEARER = re.compile(r"\b([Bb]earer +)(?=[\w.~+/=\-]*\d)[\w.~+/=\-]{8,}")
_JWT = re.compile(r"(?<![\w\-])eyJ[\w\-]{8,}\.[\w\-]+\.?[\w\-]*")
_KEY = re.compile(r"\((?P<names>[^\n]{1,200}?)\)=\((?P<values>[^\n]*)\)")
"""PostgreSQL's ``Key (name, token)=(a, b) already exists.``"""
_NAMED = (
    (
        "input_value=",  # pydantic's two lines about a field
        re.compile(
            r"^(?P<name>[^\s:=]{1,200})\n[^\n]*?\binput_value=(?P<value>.*?)(?=, input_type=|\]$|\Z)", re.S | re.M
        ),
    ),
    (
        "for key '",  # MySQL's "Duplicate entry 'a' for key 'user.token'"
        re.compile(r"entry '(?P<value>[^\n]{0,999}?)' for key '(?P<name>[^'\n]{1,200})'"),
    ),
    (
        "</",
        re.compile(r"<(?P<name>[\w.:\-]{1,64})(?:\s[^<>]{0,200})?>(?P<value>[^<>]+)(?=</)"),
    ),
    (
        ",",  # a header, ('X-Api-Key', 'a'), or an option of a command, '--token', 'a'
        re.compile(
            r"""(?:(?<=\()[bu]?(?P<quote>["'])|(?P<option>["'])--?)(?P<name>[\w.\-]{1,64})"""
            r"""(?:(?P=quote)|(?P=option)),[ ][bu]?(?P<sign>["'])(?P<value>(?:(?!(?P=sign))[^\\]|\\.)+)"""
        ),
    ),
)
"""What texts quote with a name: a sign without which a text has nothing of it, and how it looks."""
_PRIVATE_KEY = re.compile(r"(-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----).*?(?=-----END |\Z)", re.S)
