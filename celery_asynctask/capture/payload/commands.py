"""Finds the secrets in command lines, written as one text or as a list of arguments.

Pure. An option is judged by its name, ``--password``, or, where its name is a letter, by the program before it:
``mysql -phunter2``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

_VALUE: Final = r"""(?P<value>"[^"\n]*"?|'[^'\n]*'?|[^\s"'`]+)"""
_NO_VALUE: Final = (
    "is|are|was|were|must|may|should|can|cannot|not|and|or|options?|flags?|arguments?|parameters?|requires?|required|"
    "needs?|has|have|to|for|from|in|with|without|if|when|instead|given|missing|specified"
)
"""Words after an option by which a sentence goes on."""
_OPTION: Final = re.compile(
    rf"-(?<![\w\-]-)-?(?P<name>[A-Za-z][\w.\-]{{1,63}})[ \t]+(?!-|(?:{_NO_VALUE})\b){_VALUE}", re.ASCII
)
_LONE_OPTION: Final = re.compile(r"--?[A-Za-z][\w.\-]{1,63}\Z", re.ASCII)


class _Tool(NamedTuple):
    programs: str
    """Their names."""
    option: str
    """What their secret stands behind, as a regular expression."""
    before: str = ""
    """What stands between the name of the program and the option."""


TOOLS: Final = (
    _Tool("mysql mysqladmin mysqlbinlog mysqlcheck mysqldump mysqlimport mysqlsh mysqlshow mysqlslap", r"-p"),
    _Tool("mariadb mariadb-admin mariadb-backup mariadb-binlog mariadb-check mariadb-dump mariadb-import", r"-p"),
    _Tool("7z 7za 7zr rar unrar", r"-p"),
    _Tool("curl", r"(?:-u|-U|--user|--proxy-user)[ \t=]*[^\s:]{0,99}:"),
    _Tool("sshpass mongo mongosh mongodump mongorestore mongoexport mongoimport mongostat mongotop", r"-p[ \t]*"),
    _Tool("docker podman nerdctl helm skopeo buildah oras crane az oc", r"-p[ \t]*", r"(?:[ \t]+\w+)?[ \t]+login"),
    _Tool("redis-cli valkey-cli", r"-a[ \t]+"),
    _Tool("ldapsearch ldapmodify ldapadd ldapdelete ldappasswd ldapwhoami ldapcompare ldapmodrdn", r"-[was][ \t]*"),
    _Tool("smbclient rpcclient smbget smbcacls", r"(?:-U|--user)[ \t=]*[^\s%]{1,99}%"),
    _Tool("sqlcmd osql isql bcp tsql sqsh mosquitto_pub mosquitto_sub zip unzip", r"-P[ \t]*"),
    _Tool("sqlplus sqlldr expdp impdp rman", r"[\w$]{1,99}/(?!/)(?=[^\s@]{1,99}@)"),
    _Tool("openssl", r"-(?:passin|passout|pass|k|K)[ \t]+(?:pass:)?"),
    _Tool("plink pscp psftp putty", r"-pw[ \t]+"),
    _Tool("snmpget snmpgetnext snmpbulkget snmpwalk snmpbulkwalk snmpset snmptrap snmpinform", r"-[cAX][ \t]*"),
    _Tool("lftp", r"-u[ \t]*[^\s,]{1,99},"),
    _Tool("rabbitmqctl", r"(?:add_user|change_password)[ \t]+\S{1,99}[ \t]+"),
    _Tool("htpasswd", r"-\w{0,5}b\w{0,5}[ \t]+\S{1,99}[ \t]+\S{1,99}[ \t]+"),
    _Tool("kubectl", r"--from-literal[ \t=]+[\w.\-]{1,99}="),
    _Tool("aws", r"configure[ \t]+set[ \t]+[\w.]{0,99}(?:secret|token)[\w.]{0,99}[ \t]+"),
)
"""Programs whose secrets have no sensitive name."""
_PROGRAMS: Final = frozenset(program for tool in TOOLS for program in tool.programs.split())
_WORD: Final = re.compile(r"[a-z7][\w\-]*", re.ASCII)
_NAMES: Final = (f"(?P<t{at}>(?:{tool.programs.replace(' ', '|')}){tool.before})" for at, tool in enumerate(TOOLS))
_PROGRAM: Final = re.compile(rf"(?<![\w.\-])(?:{'|'.join(_NAMES)})(?:\.exe)?(?=[ \t])")
_OF_TOOL: Final = {f"t{at}": re.compile(rf"(?<![^\s\"']){tool.option}{_VALUE}") for at, tool in enumerate(TOOLS)}
_WITHOUT_OPTION: Final = ("aws", "expdp", "impdp", "rabbitmqctl", "rman", "sqlldr", "sqlplus")
_END: Final = re.compile(r"[\n;|]|&&|\Z")
"""The end of one command."""
_MAX_COMMAND: Final = 4_096
"""Characters of a command, from its program on, that are read."""
_MAX_ARGUMENTS: Final = 200
"""Arguments of a list that are read as a command of a known program."""


def has_program(text: str) -> bool:
    """Whether a text has the name of one of `TOOLS`."""
    return not _PROGRAMS.isdisjoint(_WORD.findall(text))


def spans(text: str, sensitive: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    """The places of secrets in command lines: (start, end). ``sensitive`` judges names of options."""
    for option in _OPTION.finditer(text):
        if sensitive(option["name"]):
            yield option.span("value")
    program = _PROGRAM.search(text) if has_program(text) else None
    while program is not None:
        following = _PROGRAM.search(text, program.end())
        end = min(program.end() + _MAX_COMMAND, len(text) if following is None else following.start())
        command = _END.search(text, program.end(), end)
        for secret in _OF_TOOL[str(program.lastgroup)].finditer(
            text, program.end(), command.start() if command else end
        ):
            yield secret.span("value")
        program = following


def is_program(text: str) -> bool:
    """Whether a text is the name or path of a program that takes a secret without an option."""
    return text.rpartition("/")[2] in _WITHOUT_OPTION


def is_option(text: str, sensitive: Callable[[str], bool]) -> bool:
    """Whether a text is an option with a sensitive name, whose value is the next argument."""
    return _LONE_OPTION.match(text) is not None and sensitive(text)


def hidden_arguments(arguments: Sequence[object], sensitive: Callable[[str], bool]) -> set[int]:
    """The indexes of the secrets in a list of arguments that begins with its program."""
    places: list[int] = []
    texts: list[str] = []
    at = 0
    for argument in arguments[:_MAX_ARGUMENTS]:
        text = argument[:_MAX_COMMAND] if type(argument) is str else "?"
        places.append(at)
        texts.append(text)
        at += len(text) + 1
    line = " ".join(texts)
    if not has_program(line):
        return set()
    hidden = set()
    for start, end in spans(line, sensitive):
        hidden |= {number for number, place in enumerate(places) if place < end and start < place + len(texts[number])}
    return hidden
