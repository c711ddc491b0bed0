"""Quick questions whether a text may have something that redaction takes. Pure.

Every text is asked them, so most are for a single character, to which most texts say no. They may be wrong about a text
that has nothing, but not about one that has something.
"""

from __future__ import annotations

import re
from typing import Final

_AFTER_UNDERSCORE: Final = re.compile(r"_[\w+/=\-]{8}").search
_UNDERSCORED: Final = (
    *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "_pat_", "k_live_", "k_test_", "whsec_", "npm_", "_v1_", "shp"),
    *("hf_", "_oat_", "glsa_", "glc_", "ntn_", "_api_", "figd_", "sntry", "pscale_", "gsk_", "asynctask_"),
)
_BEFORE_DASH: Final = re.compile(r"""-(?<=[ikpstKXY "']-)""").search
"""UUIDs and times have no such dash. It looks behind, because a literal character is found fastest."""
_DASHED: Final = ("xox", "sk-", "gl", "pypi-", "xapp-", "GOCSPX-", "SECRET-KEY-", "PRIVATE KEY", "PuTTY-")


def may_change(text: str) -> bool:
    """Whether `Redaction.text` might change a text, apart from `Redaction.secrets`."""
    return (
        "=" in text
        or ":" in text
        or '"' in text
        or "<" in text
        or "'" in text
        or "%" in text
        or "&" in text
        or "\uff1a" in text  # the colon and the equals sign of Chinese and Japanese
        or "\uff1d" in text
        or may_change_words(text)
    )


def may_change_words(text: str) -> bool:
    """`may_change`, for a text without signs other than ``/``, also of JSON."""
    return (
        ("-" in text and (_BEFORE_DASH(text) is not None or "xox" in text or text[0] == "-"))
        or ("_" in text and _AFTER_UNDERSCORE(text) is not None and (_underscored(text) or "configure set" in text))
        or ("/" in text and (_token_in_path(text) or _connection(text) or "</" in text or "&lt;/" in text))
        or ("q" in text and "rabbitmqctl" in text)
        or _other_token(text)
        or "assword" in text
    )


def may_have_token(text: str) -> bool:
    """Whether `tokens.without_tokens` might change a text."""
    return (
        ("-" in text and any(map(text.__contains__, _DASHED)))
        or ("_" in text and _AFTER_UNDERSCORE(text) is not None and _underscored(text))
        or ("/" in text and _token_in_path(text))
        or _other_token(text)
    )


def may_have_command(text: str) -> bool:
    """Whether `commands.spans` might find something."""
    return (
        ("-" in text and (" -" in text or '"-' in text or "'-" in text or text[0] == "-"))
        or ("_" in text and "configure set" in text)
        or ("q" in text and "rabbitmqctl" in text)
        or ("/" in text and _connection(text))
    )


def _underscored(text: str) -> bool:
    return any(map(text.__contains__, _UNDERSCORED))


def _token_in_path(text: str) -> bool:
    return "hook" in text or "/bot" in text or "1//0" in text


def _connection(text: str) -> bool:
    return "sqlplus " in text or "sqlldr " in text or "expdp " in text or "impdp " in text


def _other_token(text: str) -> bool:
    return (
        ("A" in text and ("AKIA" in text or "ASIA" in text or "AIza" in text or "ATATT3" in text or ":AA" in text))
        or ("." in text and ("eyJ" in text or "SG." in text or "ya29." in text or "hvs." in text or "hvb." in text))
        or ("B" in text and ("Basic " in text or "BASIC " in text or "BEARER " in text))
        or ("K" in text and "SK" in text)
        or "earer " in text
    )
