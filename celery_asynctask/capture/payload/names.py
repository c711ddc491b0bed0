"""Judges names: whether the value with a name is redacted, whatever it is.

Pure. A name is judged by its words: ``apiKey``, ``X-API-KEY`` and ``x_api_key`` are all ``api key``, but
``tokenizer``, ``secretary`` and ``max_tokens`` are neither ``token`` nor ``secret``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

SENSITIVE_NAMES: Final[tuple[str, ...]] = (
    *("password", "passwords", "passwd", "pass word", "pwd", "pw", "passphrase", "passcode", "passkey", "creds"),
    *("=pass", "admin pass", "app pass", "bind pass", "db pass", "ftp pass", "http pass", "key pass", "keystore pass"),
    *("ldap pass", "login pass", "mail pass", "mysql pass", "pg pass", "proxy pass", "redis pass", "root pass"),
    *("smtp pass", "ssh pass", "store pass", "truststore pass", "user pass", "wifi pass"),
    *("secret", "secrets", "credential", "credentials", "authorization", "=auth", "client assertion", "saml response"),
    *("basic auth", "http auth", "auth header", "auth key", "auth code", "token", "jwt", "bearer"),
    *("access tokens", "api tokens", "auth tokens", "bearer tokens", "device tokens", "refresh tokens"),
    *("api key", "api keys", "access key", "access keys", "private key", "private keys", "priv key", "secret key"),
    *("account key", "encryption key", "signing key", "hmac key", "shared key", "shared access key", "preshared key"),
    *("psk", "master key", "ssh key", "rsa key", "tls key", "mnemonic", "seed phrase", "recovery phrase"),
    *("session id", "session key", "session cookie", "=sid", "connect sid", "phpsessid", "jsessionid"),
    *("cookie", "cookies", "csrf", "xsrf"),
    *("card number", "card numbers", "card no", "card num", "cc number", "cc num", "credit card", "pan"),
    *("cvv", "cvc", "csc", "security code", "card pin", "=pin", "pin code"),
    *("otp", "totp", "mfa code", "verification code", "reset code", "recovery codes", "backup codes", "magic link"),
    *("access code", "device code", "login code", "one time code", "sms code", "code verifier", "puk"),
    *("iban", "account number", "account no", "sort code", "ssn", "social security number"),
    *(
        "adgangskode",
        "clave",
        "contraseña",
        "contrasena",
        "contrasenya",
        "geheimnis",
        "geslo",
        "hasło",
        "haslo",
        "heslo",
    ),
    *("jelszó", "kennwort", "kodeord", "lösenord", "lozinka", "mdp", "mot de passe", "palavra passe", "parola"),
    *("passord", "passwort", "salasana", "senha", "şifre", "wachtwoord"),
    *("пароль", "токен", "密码", "密碼", "密钥", "口令", "パスワード", "暗証番号", "비밀번호"),
)
"""The names whose values are redacted, unless the setting ``asynctask_redact`` has others: each one or more words that
a name has in a row, also written together (``apikey``), or with ``=`` the whole name. A name that only describes such a
value is not redacted (``token_type``, ``passwordChangedAt``), nor is ``tokens`` alone: language models count them."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")
_ENDINGS = (
    *("password", "passwd", "passphrase", "passwort", "secret", "token", "apikey", "credentials"),
    *("пароль", "密码", "密碼", "密钥", "パスワード", "비밀번호"),
)
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
MAX_NAME: Final = 256
"""Characters of a name that are judged."""
_MAX_CACHED = 4_096
"""Most names whose verdict is kept, of at most `_CACHED_LENGTH` characters each."""
_CACHED_LENGTH = 64


def name_words(name: str) -> tuple[str, ...]:
    """The words of a name, in lower case."""
    name = name[:MAX_NAME]
    if not name.isascii():  # an accent may be a character of its own
        name = unicodedata.normalize("NFC", name)
    return tuple(word.lower() for word in _WORD.findall(name))


class Names:
    """The names whose values are redacted. Immutable except for its cache of verdicts; safe for threads."""

    def __init__(self, names: Iterable[str] = SENSITIVE_NAMES) -> None:
        """``names`` are as in `SENSITIVE_NAMES`, in any style of writing. Raises `ValueError` for a name without a
        letter or digit."""
        self.names = tuple(names)
        self._phrases: set[tuple[str, ...]] = set()
        self._whole: set[str] = set()
        self._openings: set[str] = set()
        for name in self.names:
            words = name_words(name)
            if not words:
                raise ValueError(f"{name!r} names nothing")
            if name.startswith("="):
                self._whole.add("".join(words))
                continue
            self._phrases.update((words, ("".join(words),)))
            if len(words) > 1:
                self._openings.add(words[0])
        self._starts = {words[0] for words in self._phrases}
        self._last = {words[-1] for words in self._phrases if len(words) > 1}
        self._longest = max(map(len, self._phrases), default=0)
        self._endings = tuple(word for word in _ENDINGS if (word,) in self._phrases)
        self.words = frozenset(word for words in self._phrases for word in words) | self._whole
        """The words that the names are made of, each alone and those of one name together."""
        self._verdicts: dict[str, bool] = {}

    def sensitive(self, name: str) -> bool:
        """Whether the value with this name is redacted. Judges by the first 256 characters."""
        verdict = self._verdicts.get(name)
        if verdict is None:
            verdict = not name.isdecimal() and self._judge(name_words(name))
            if len(name) <= _CACHED_LENGTH:
                if len(self._verdicts) >= _MAX_CACHED:
                    self._verdicts.clear()
                self._verdicts[name] = verdict
        return verdict

    def opens(self, name: str) -> bool:
        """Whether the keys of the mapping with this name are judged together with it: ``{"card": {"number": ...}}``."""
        words = name_words(name)
        return bool(words) and words[-1] in self._openings

    def length_at_end(self, text: str, word: str) -> int:
        """The number of characters of the name of several words with which a text ends: ``your API key``; 0 if there is
        none. ``word`` is its last word."""
        if word.lower() not in self._last:
            return 0
        words = text.split(" ")
        for count in range(2, min(len(words), self._longest) + 1):
            if tuple(word.lower() for word in words[-count:]) in self._phrases:
                return len(" ".join(words[-count:]))
        return 0

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
