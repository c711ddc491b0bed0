"""Removes from texts what is a secret by its own form, without a name: tokens of well-known vendors, bearer tokens and
basic authentication, JSON web tokens, private keys.

Pure. Every pattern is linear: what it may repeat, it repeats only from the beginning of a word.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Final

from celery_asynctask.capture.payload.hints import may_have_token

STARS: Final = "***"
"""Replaces what is redacted in a text."""
_B: Final = r"(?<![\w\-])"
"""The beginning of a word: a token within a longer word is none."""

VENDORS: Final = {
    "GitHub": r"gh[oprsu]_[A-Za-z0-9]{10,}|github_pat_\w{10,}",
    "GitLab": r"gl(?:pat|rt|dt|ptt|cbt|ft|soat|agent|oas)-[\w.\-]{10,}",
    "Stripe": r"[rs]k_(?:live|test)_[A-Za-z0-9]{8,}|whsec_[\w+/=\-]{8,}",
    "Slack": r"xox[a-z]-[\w\-]{8,}|xapp-[\w\-]{10,}",
    "Amazon": r"A(?:KIA|SIA)[A-Z0-9]{12,}\b",
    "Google": r"AIza[\w\-]{16,}|ya29\.[\w.\-]{10,}|GOCSPX-[\w\-]{16,}|1//0[\w\-]{16,}",
    "Anthropic, OpenAI, OpenRouter": r"sk-(?:ant|proj|or|svcacct|admin)-[\w\-]{10,}|sk-[A-Za-z0-9]{20,}",
    "npm": r"npm_[A-Za-z0-9]{16,}",
    "PyPI": r"pypi-(?=[\w\-]*\d)(?=[\w\-]*[A-Z])[\w\-]{16,}",
    "SendGrid": r"SG\.[\w\-]{10,}\.[\w\-]{10,}",
    "DigitalOcean": r"do[opr]_v1_[A-Za-z0-9]{16,}",
    "Shopify": r"shp(?:at|ca|pa|ss)_[A-Za-z0-9]{16,}",
    "Twilio": r"SK[0-9a-f]{32}\b",
    "Hugging Face": r"hf_[A-Za-z0-9]{16,}",
    "Docker": r"dckr_(?:pat|oat)_[\w\-]{10,}",
    "Grafana": r"glsa_\w{16,}|glc_[A-Za-z0-9+/=]{16,}",
    "HashiCorp Vault": r"hv[bs]\.[\w\-]{16,}",
    "Atlassian": r"ATATT3[\w\-=]{16,}",
    "Notion, Linear, Figma, Sentry": r"ntn_\w{16,}|lin_api_\w{16,}|figd_[\w\-]{16,}|sntry[su]_[\w+/=\-]{16,}",
    "PlanetScale, Groq": r"pscale_(?:tkn|pw|oauth)_[\w\-]{10,}|gsk_[A-Za-z0-9]{16,}",
    "Telegram": r"\d{6,12}:AA[\w\-]{16,}",
    "age": r"AGE-SECRET-KEY-1[0-9A-Z]{10,}",
    "celery-asynctask": r"asynctask_[\w\-]{16,}",
}
"""The forms of tokens, by who gives them out."""
_TOKEN: Final = re.compile(f"{_B}(?:{'|'.join(VENDORS.values())})", re.ASCII)

ADDRESSES: Final = (
    r"hooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)/",
    r"api\.telegram\.org/(?:file/)?bot",
    r"discord(?:app)?\.com/api/(?:v\d+/)?webhooks/\d{1,20}/",
    r"outlook\.office(?:365)?\.com/webhook/|webhook\.office\.com/webhookb2/",
)
"""The beginnings of addresses whose path is the secret."""
_ADDRESS: Final = re.compile(rf"((?:{'|'.join(ADDRESSES)}))(?!\*\*\*)[^\s/?#\"'<>][^\s?#\"'<>]*")

_JWT: Final = re.compile(r"(?<![\w\-])eyJ[\w\-]{8,}\.[\w\-]+(?:\.[\w\-]*){0,3}")
_BEARER: Final = re.compile(r"\b([Bb]earer +|BEARER +)(?=[\w.~+/=\-]*\d)[\w.~+/=\-]{8,}")
_BASIC: Final = re.compile(r"\b(Basic +|BASIC +)([\w+/\-]{4,}={0,2})", re.ASCII)
_PRIVATE_KEY: Final = re.compile(
    r"(-{4,5} ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}).*?(?=-{4,5} ?END |\Z)"
    r"|(Private-Lines: \d{1,4}).*?(?=^Private-MAC|\Z)",
    re.DOTALL | re.MULTILINE,
)


def without_tokens(text: str) -> str:
    """The text with stars in place of tokens and keys; the same object if it has none."""
    if not may_have_token(text):
        return text
    if "earer " in text or "BEARER " in text:
        text = _BEARER.sub(rf"\1{STARS}", text)
    if "Basic " in text or "BASIC " in text:
        text = _BASIC.sub(_basic, text)
    if "eyJ" in text:
        text = _JWT.sub(STARS, text)
    if "PRIVATE KEY" in text or "PuTTY-" in text:
        text = _PRIVATE_KEY.sub(_key, text)
    if "/" in text:
        text = _ADDRESS.sub(rf"\1{STARS}", text)
    return _TOKEN.sub(STARS, text)


def _key(match: re.Match[str]) -> str:
    return f"{match[1] or match[2]}{STARS}"


def _basic(match: re.Match[str]) -> str:
    """What is after the word, if it is a user and a password in base64."""
    given = match[2].rstrip("=").translate({45: "+", 95: "/"})
    try:
        decoded = base64.b64decode(given + "=" * (-len(given) % 4))
    except (binascii.Error, ValueError):
        return match[0]
    return f"{match[1]}{STARS}" if b":" in decoded else match[0]


def starred(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with stars in place of its parts at ``spans``, (start, end), which may overlap."""
    kept: list[str] = []
    done = -1
    for start, end in sorted(spans):
        if start > done:
            kept += (text[max(done, 0) : start], STARS)
        done = max(done, end)
    return "".join([*kept, text[done:]]) if kept else text
