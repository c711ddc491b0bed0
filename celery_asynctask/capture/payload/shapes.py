"""Finds values that a text shows with a name, in other ways than ``name=value`` and ``name: value``: XML, quoted
headers and options, what databases and pydantic quote, SQL, forms and JSON that are quoted for a URL.

Pure. Every pattern is linear: what it may repeat is bounded, or cannot begin again within itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

Sensitive = Callable[[str], bool]
Spans = Iterator[tuple[int, int]]

_KEY: Final = re.compile(r"\((?P<names>[^\n]{1,200}?)\)=\((?P<values>[^\n]*)\)")
"""PostgreSQL's ``Key (name, token)=(a, b) already exists.``"""
_QUOTED: Final = r"""(?P<sign>\\{0,4}["'])(?P<value>(?:(?!(?P=sign))(?:[^\\]|\\.))+)"""
_MESSAGES: Final = (
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
)
"""What error messages quote with a name: a sign without which a text has nothing of it, and how it looks."""
_ELEMENT: Final = re.compile(
    r"<(?P<name>[\w.:\-]{1,64})(?:\s[^<>]{0,200})?>\s*"
    r"(?:<!\[CDATA\[(?P<data>(?:[^\]<]|<(?!!)|\](?!\]>)){1,4096})\]\]>|(?P<value>[^<>\s][^<>]*?)(?=</|(?P<cut>\Z)))"
    r"|&lt;(?P<escaped>[\w.:\-]{1,64})(?:\s[^<>&]{0,200})?&gt;(?P<text>[^<>&]+)(?=&lt;/)",
    re.DOTALL,
)
"""XML's ``<password>a</password>``, also in HTML."""
_TAG: Final = re.compile(r"<[A-Za-z][^<>]{1,1000}(?:>\s*(?P<text>[^<>]+)(?=</))?")
_NAME: Final = re.compile(r"""\s(?:name|key|id|property)=["'](?P<name>[^"']{1,64})["']""", re.IGNORECASE)
_CONTENT: Final = re.compile(r"""\s(?:value|content)=["'](?P<value>[^"']+)""", re.IGNORECASE)
"""Attributes of a tag: ``<add key="password" value="a"/>``, ``<property name="password">a</property>``."""
_PLIST: Final = re.compile(r"<key>(?P<name>[^<>]{1,64})</key>\s{0,99}<(?P<kind>string|data)>(?P<value>[^<>]+)")
_PAIR: Final = re.compile(  # a header, ('X-Api-Key', 'a') or [["token", "a"]]
    r"""[(\[](?:(?<=\()|(?<=\[\[)|(?<=\], \[)|(?<=\],\[))"""
    r"""[bu]?(?P<quote>\\{0,4}["'])(?P<name>[\w.\-]{1,64})(?P=quote),[ ]?[bu]?""" + _QUOTED
)
_ARGUMENTS: Final = re.compile(  # an option, '--token', 'a'
    r"""(?P<quote>["'])--?(?P<name>[\w.\-]{1,64})\\{0,4}(?P=quote),[ ]?[bu]?""" + _QUOTED
)
_Q: Final = r"""\\{0,4}["']?"""
_BESIDE: Final = re.compile(  # {"name": "password", "value": "a"} and YAML's lines
    rf"""\b(?:name|key|header|field|variable){_Q}\s{{0,9}}:\s{{0,9}}{_Q}(?P<name>[\w.\-]{{1,64}}){_Q}[,\s]{{1,40}}{_Q}"""
    rf"""values?{_Q}\s{{0,9}}:\s{{0,9}}(?:{_QUOTED}|(?P<bare>[^\s,"'\\}}\]]+))""",
    re.IGNORECASE,
)
_BEFORE: Final = re.compile(  # {"value": "a", "name": "password"}
    r"""\bvalues?\\{0,4}["']\s{0,9}:\s{0,9}"""
    + _QUOTED
    + rf"""(?P=sign)[,\s]{{1,40}}{_Q}(?:name|key){_Q}\s{{0,9}}:\s{{0,9}}{_Q}(?P<name>[\w.\-]{{1,64}})""",
    re.IGNORECASE,
)
_FORM: Final = re.compile(  # a part of multipart/form-data
    r"""form-data;[^\r\n]{0,99}?\bname="(?P<name>[^"\r\n]{1,64})"[^\r\n]{0,200}\r?\n"""
    r"""(?:[\w\-]{1,40}:[^\r\n]{0,200}\r?\n){0,5}\r?\n(?P<value>[^\r\n]+)"""
)
_SQL: Final = re.compile(
    r"""\b(?:identified(?: with \w{1,64})? by|password|requirepass)(?:[ ]{1,9}|[ ]?\()"""
    r"""(?P<sign>["'])(?P<value>[^"'\n]+)""",
    re.I,
)
"""``CREATE USER ada IDENTIFIED BY 'a'``, ``ALTER ROLE ada PASSWORD 'a'``, ``PASSWORD('a')``."""
_IN_SQL: Final = ("assword", "ASSWORD", "dentified", "DENTIFIED", "requirepass")
_NETRC: Final = re.compile(
    r"\b(?:login|user|account)[ \t\n]{1,9}\S{1,99}[ \t\n]{1,9}password[ \t\n]{1,9}(?P<value>\S+)"
)
_THIN: Final = re.compile(r"""\bjdbc:oracle:\w{1,9}:[^\s/@"']{1,99}/(?P<value>"[^"\n]{1,200}"|[^\s@"']{1,200})(?=@)""")
"""``jdbc:oracle:thin:scott/a@host``."""
_PERCENT: Final = re.compile(
    r"(?:%(?:25){0,3}[2-7][0-9A-Fa-f]|(?<![\w.\-%]))(?P<name>[^\W\d][\w.\-]{0,63})(?:%(?:25){0,3}2[27])?"
    r"(?:%(?:25){0,3}20|\+){0,3}%(?:25){0,3}3[AaDd](?:%(?:25){0,3}20|\+){0,3}(?P<open>%(?:25){0,3}2[27])?"
    r"(?P<value>(?:(?!%(?:25){0,3}(?:2[267]|2[Cc]|3[Bb]|7[Dd]|0[AaDd]))[^\s&\"'<>])+)"
)
_PERCENT_URL: Final = re.compile(
    r"%(?:25){0,3}3[Aa]%(?:25){0,3}2[Ff]%(?:25){0,3}2[Ff](?P<value>(?:(?!%(?:25){0,3}2[Ff])[^\s&/\"'<>]){1,300}?)(?=%(?:25){0,3}40)"
)
"""A form or JSON that is quoted for a URL, once or more often: ``%22password%22%3A%22a%22``, ``password%3Da``."""


def spans(text: str, sensitive: Sensitive, *, message: bool, cut: bool) -> Spans:
    """The places of values with a sensitive name: (start, end). ``message`` and ``cut`` as for `Redaction.text`."""
    if message:
        yield from _messages(text, sensitive)
    if "<" in text or "&lt;" in text:
        yield from _markup(text, sensitive, cut)
    if "alue" in text or "VALUE" in text:
        for found in _BESIDE.finditer(text):
            if sensitive(found["name"]):
                yield found.span("value" if found["value"] else "bare")
        yield from _named(_BEFORE, text, sensitive)
    if "form-data;" in text:
        yield from _named(_FORM, text, sensitive)
    if "'" in text or '"' in text:
        yield from _quoted(text, sensitive)
    if "assword" in text:
        yield from _passwords(_NETRC, text, sensitive)
    if "jdbc:oracle:" in text:
        yield from _all(_THIN, text)
    if "%" in text:
        yield from _named(_PERCENT, text, sensitive)
        yield from _all(_PERCENT_URL, text)


def _all(pattern: re.Pattern[str], text: str) -> Spans:
    return (found.span("value") for found in pattern.finditer(text))


def _passwords(pattern: re.Pattern[str], text: str, sensitive: Sensitive) -> Spans:
    return _all(pattern, text) if sensitive("password") else iter(())


def _quoted(text: str, sensitive: Sensitive) -> Spans:
    if "(" in text or "[[" in text:
        yield from _named(_PAIR, text, sensitive)
    if "'-" in text or '"-' in text:
        yield from _named(_ARGUMENTS, text, sensitive)
    if any(map(text.__contains__, _IN_SQL)):
        yield from _passwords(_SQL, text, sensitive)


def _messages(text: str, sensitive: Sensitive) -> Spans:
    if ")=(" in text:
        yield from _keys(text, sensitive)
    for sign, pattern in _MESSAGES:
        if sign in text:
            yield from _named(pattern, text, sensitive)


def _markup(text: str, sensitive: Sensitive, cut: bool) -> Spans:
    if "</" in text or "&lt;/" in text or "<![" in text or cut:
        yield from _elements(text, sensitive, cut)
    if "=" in text:
        yield from _tags(text, sensitive)
    if "<key>" in text:
        yield from _named(_PLIST, text, sensitive)


def _named(pattern: re.Pattern[str], text: str, sensitive: Sensitive) -> Spans:
    return (found.span("value") for found in pattern.finditer(text) if sensitive(found["name"]))


def _elements(text: str, sensitive: Sensitive, cut: bool) -> Spans:
    for found in _ELEMENT.finditer(text):
        name = found["name"] or found["escaped"]
        if (cut or found["cut"] is None) and sensitive(name.rpartition(":")[2]):
            yield found.span(next(part for part in ("data", "value", "text") if found[part]))


def _tags(text: str, sensitive: Sensitive) -> Spans:
    for tag in _TAG.finditer(text):
        end = tag.start("text") if tag["text"] else tag.end()
        name = _NAME.search(text, tag.start(), end)
        if name is None or not sensitive(name["name"]):
            continue
        if (content := _CONTENT.search(text, tag.start(), end)) is not None:
            yield content.span("value")
        elif tag["text"]:
            yield tag.span("text")


def _keys(text: str, sensitive: Sensitive) -> Spans:
    for found in _KEY.finditer(text):
        names, values = found["names"].split(", "), found["values"].split(", ")
        hidden = [sensitive(name) for name in names]
        if not any(hidden):
            continue
        if len(names) != len(values):  # one of the values has a comma
            yield found.span("values")
            continue
        at = found.start("values")
        for hide, value in zip(hidden, values, strict=True):
            if hide:
                yield at, at + len(value)
            at += len(value) + 2
