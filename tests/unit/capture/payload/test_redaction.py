"""Values that must be removed before anything is written, and values that must stay."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from hypothesis import given
from hypothesis import strategies as st

from celery_asynctask.capture.payload import Encoder, error_message
from celery_asynctask.capture.payload.names import SENSITIVE_NAMES
from celery_asynctask.capture.payload.redaction import Path, Redaction
from celery_asynctask.core.marks import is_whole
from tests import quick

REDACTION = Redaction()
ENCODER = Encoder(redaction=REDACTION)
GONE = {"$asynctask": "redacted"}

SENSITIVE = re.findall(
    r"\S+",
    """
    password Password PASSWORD userPassword user_password new-password passwd db_pwd passphrase dbpassword
    password2 password_confirmation pass db_pass secret client_secret clientSecret secrets token access_token
    accessToken X-Auth-Token refreshToken id_token csrfmiddlewaretoken csrf_token xsrf api_key apiKey API-KEY
    apikey x_api_key stripe.api.key aws_secret_access_key AWS_ACCESS_KEY_ID private_key privateKey ssh_key
    authorization HTTP_AUTHORIZATION Proxy-Authorization auth basic_auth cookie Set-Cookie cookies HTTP_COOKIE
    session_id sessionid PHPSESSID connect.sid credentials credential card_number cardNumber card-no credit_card
    cvv cvc cvv2 security_code iban ssn pin otp access_tokens recovery_codes
    """,
)
INNOCENT = re.findall(
    r"\S+",
    """
    tokenizer tokenize secretary secretariat passwordless_login_enabled author authority authenticated auth_method
    card_count card cards max_tokens token_count tokens prompt_tokens completionTokens num_tokens next_token
    eos_token nextPageToken token_type token_expires_at passwordChangedAt password_policy cookiecutter
    cookie_policy secret_name key keys keyboard primary_key foreign_key id user_id compass passenger passed bypass
    pinned opinion spinning number account account_id session sessions session_count cvc_check credit_card_type
    card_number_last4 description signature authorization_url amount currency email name username
    """,
)


@pytest.mark.parametrize("name", SENSITIVE)
def test_sensitive_names(name: str) -> None:
    assert REDACTION.sensitive(name)
    assert ENCODER.value({name: "x"}) == {name: GONE}


@pytest.mark.parametrize("name", INNOCENT)
def test_names_that_only_look_like_it(name: str) -> None:
    assert not REDACTION.sensitive(name)
    assert ENCODER.value({name: "x"}) == {name: "x"}


def test_what_was_redacted_is_redacted_again_where_more_is_known() -> None:
    """A content travels as JSON, and its marks stay what they are."""
    content: dict[Any, Any] = {
        "password": "x",
        "url": "redis://:hunter2@host",
        "long": "y" * 5_000,
        "$asynctask": "a user's",
        "nan": float("nan"),
        "headers": [["Authorization", "x"], {"name": "token", "value": "x"}],
        3: {4, 5},
        "object": object(),
        "deep": [[[[[[[[[[[[[[[[[[[[[["bottom"]]]]]]]]]]]]]]]]]]]]]],
        "bytes": b"\xff",
        "odd": "a\0b",
    }
    for encoder in ENCODER, Encoder(600, REDACTION), Encoder(600), Encoder(redaction=Redaction((), lambda *_: False)):
        once = json.loads(json.dumps(encoder.value(content, "content")))
        assert encoder.again(once) == once
    knowing_more = Encoder(256, Redaction(("long", "diagnosis"), lambda path, _: path[-1] == "nan"))
    again = knowing_more.again(Encoder(900).value({"diagnosis": "flu", **content}))
    assert (again["long"], again["nan"], again["diagnosis"]) == (GONE, GONE, GONE)
    assert again["url"] == {**GONE, "text": "redis://***@host"}
    mark = {"$asynctask": "cut", "head": "token=hunter2", "password": "x", "value": {"secret": "x"}, "size": 3}
    assert ENCODER.again({"a": mark, **mark}) == {
        "$asynctask": "cut",
        "a": {"$asynctask": "cut", "head": "token=***", "password": GONE, "value": {"secret": GONE}, "size": 3},
        "head": "token=***",
        "password": GONE,
        "value": {"secret": GONE},
        "size": 3,
    }
    asked: list[Any] = []

    def rule(_: Path, value: Any) -> bool:
        asked.append(value)
        return False

    assert Encoder(redaction=Redaction((), rule)).again({"a": GONE, "b": [GONE]}) == {"a": GONE, "b": [GONE]}
    assert asked == [{"a": GONE, "b": [GONE]}, [GONE]]  # nothing is left of the others to judge
    nested: Any = "x"
    for _ in range(3_000):
        nested = [nested]
    assert ENCODER.again({"a": nested}) == {"$asynctask": "object", "type": "dict"}


def test_names_of_one_s_own_replace_the_default() -> None:
    own = Redaction(("customer code", "=ref"))
    assert all(map(own.sensitive, ("customerCode", "customercode", "X-CUSTOMER-CODE", "ref", "REF")))
    assert not any(map(own.sensitive, ("customer", "code", "xref", "ref_no", "password", "dbpassword")))
    assert Redaction((*SENSITIVE_NAMES, "shoe size")).sensitive("password")
    assert not Redaction(()).sensitive("password")
    with pytest.raises(ValueError, match="names nothing"):
        Redaction(("--",))


@given(st.text(max_size=300))
def test_any_name_can_be_searched(name: str) -> None:
    assert REDACTION.sensitive(name) in (True, False)


def test_the_cache_of_names_is_bounded() -> None:
    redaction = Redaction()
    for number in range(10_000):
        redaction.sensitive(f"name{number}")
    assert len(redaction._verdicts) <= 4_096


# -- the corpus ----------------------------------------------------------------------------

STRIPE = {
    "id": "ch_3MmlLrLkdIwHu7ix0snN0B15",
    "amount": 1099,
    "billing_details": {"email": "ada@example.com", "name": "Ada Lovelace"},
    "payment_method_details": {
        "card": {"brand": "visa", "last4": "4242", "checks": {"cvc_check": "pass"}, "number": "4242424242424242"},
        "type": "card",
    },
    "source": {"card_number": "4000056655665556", "cvc": "931", "exp_month": 8},
    "client_secret": "pi_1_secret_SEKRIT1",
}
OAUTH = {
    "access_token": "ya29.SEKRIT2",
    "expires_in": 3599,
    "refresh_token": "1//SEKRIT3",
    "scope": "openid email",
    "token_type": "Bearer",
    "id_token": "eyJhbGciOiJSUzI1.eyJzdWIiOiIx.SEKRIT4",
}
AWS = {
    "Credentials": {"AccessKeyId": "ASIASEKRIT5", "SecretAccessKey": "SEKRIT6", "SessionToken": "SEKRIT7"},
    "Region": "eu-central-1",
    "url": "https://b.s3.amazonaws.com/k?X-Amz-Date=20260101T000000Z&X-Amz-Signature=SEKRIT8&X-Amz-Expires=900",
    "next_token": "page-2",
}
DJANGO = {
    "REQUEST_METHOD": "POST",
    "PATH_INFO": "/login/",
    "HTTP_AUTHORIZATION": "Basic SEKRIT9",
    "HTTP_COOKIE": "sessionid=SEKRIT10; csrftoken=SEKRIT11",
    "HTTP_REFERER": "https://example.com/reset?token=SEKRIT12&lang=de",
    "QUERY_STRING": "user=ada&api_key=SEKRIT13",
    "REMOTE_ADDR": "203.0.113.7",
    "CSRF_COOKIE": "SEKRIT14",
}
WEBHOOK = {
    "headers": [["Content-Type", "application/json"], ["Authorization", "Bearer SEKRIT15"], (b"cookie", b"SEKRIT16")],
    "har": [{"name": "X-Api-Key", "value": "SEKRIT17"}, {"value": "SEKRIT18", "name": "cookie"}],
    "body": '{"user": "ada", "password": "SEKRIT19", "nested": {"api_key": "SEKRIT20", "n": 1}}',
    "raw": "POST / HTTP/1.1\nHost: example.com\nAuthorization: Token SEKRIT21\nCookie: a=SEKRIT22; b=SEKRIT23\n",
}
LOGIN = {"username": "ada", "password": "SEKRIT24", "remember": True, "otp": 131313, "next": "/home"}
DSNS = [
    "postgresql+psycopg://app:SEKRIT25@db.internal:5432/shop?sslmode=require",
    "redis://:SEKRIT26@cache.internal:6379/0",
    "amqp://app:SEK/RIT27@mq.internal:5672/vhost",
    "mongodb://app:SEKRIT28@a.internal:27017,b.internal:27017/shop",
    "host=db.internal user=app password=SEKRIT29 dbname=shop",
    "Server=sql.internal;Uid=app;Pwd=SEKRIT30;",
    "DefaultEndpointsProtocol=https;AccountName=shop;AccountKey=SEKRIT31==;EndpointSuffix=core.windows.net",
    "https://SEKRIT32@sentry.internal/42",
]
K8S = {
    "kind": "Pod",
    "env": [{"name": "DB_PASSWORD", "value": "SEKRIT33"}, {"name": "LOG_LEVEL", "value": "debug"}],
    "volumes": [{"secret": {"secretName": "tls"}}, {"configMap": {"name": "settings"}}],
    "data": {"tls.key": "SEKRIT34", "ca.crt": "public"},
    "pem": "-----BEGIN EC PRIVATE KEY-----\nSEKRIT35\n-----END EC PRIVATE KEY-----\n",
}
LANGUAGE_MODEL = {
    "model": "m-1",
    "max_tokens": 512,
    "usage": {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19},
    "messages": [{"role": "user", "content": "Explain: what is a token? Time: 12:30. a = b"}],
    "tokenizer": "bpe",
    "headers": {"x-api-key": "SEKRIT36"},
}
CORPUS: list[tuple[Any, list[str]]] = [
    (STRIPE, ["ch_3MmlLrLkdIwHu7ix0snN0B15", "1099", "ada@example.com", '"4242"', '"pass"', "visa", '"exp_month": 8']),
    (OAUTH, ["3599", "openid email", '"token_type": "Bearer"']),
    (AWS, ["eu-central-1", "X-Amz-Date=20260101T000000Z", "X-Amz-Expires=900", "page-2"]),
    (DJANGO, ["POST", "/login/", "https://example.com/reset?token=***&lang=de", "user=ada", "203.0.113.7"]),
    (WEBHOOK, ["application/json", "X-Api-Key", '\\"user\\": \\"ada\\"', '\\"n\\": 1', "Host: example.com"]),
    (LOGIN, ['"username": "ada"', '"remember": true', "/home"]),
    (DSNS, ["postgresql+psycopg://***@db.internal:5432/shop?sslmode=require", "redis://***@cache.internal:6379/0"]),
    (DSNS, ["***@mq.internal:5672/vhost", "a.internal:27017,b.internal:27017/shop", "user=app", "dbname=shop"]),
    (DSNS, ["Uid=app", "AccountName=shop", "EndpointSuffix=core.windows.net", "sentry.internal/42"]),
    (K8S, ["Pod", "debug", "settings", "public"]),
    (LANGUAGE_MODEL, ["512", '"total_tokens": 19', "what is a token? Time: 12:30. a = b", "bpe"]),
]


@pytest.mark.parametrize(("payload", "stays"), CORPUS)
def test_realistic_payloads(payload: Any, stays: list[str]) -> None:
    for written in (
        json.dumps(ENCODER.value(payload)),
        json.dumps(ENCODER.arguments([payload], {"payload": payload})[0]),
        json.dumps(ENCODER.arguments([payload], {"payload": payload})[1]),
    ):
        for secret in ("SEKRIT", "RIT27", "4242424242424242", "4000056655665556", "931", "131313"):
            assert secret not in written
        for one in stays:
            assert one in written
    assert not is_whole(ENCODER.arguments([payload], {})[0])


def test_without_redaction_all_of_it_stays() -> None:
    for payload, _ in CORPUS[:-1]:
        assert "redacted" not in json.dumps(Encoder().value(payload))


def test_positional_arguments_go_by_the_signature() -> None:
    names = ("user_id", "password", "card")
    args, kwargs = ENCODER.arguments((1, "hunter2", {"number": "4242"}, "more"), {"token": "t", "n": 2}, names)
    assert args == [1, GONE, {"number": GONE}, "more"]
    assert kwargs == {"token": GONE, "n": 2}
    assert not is_whole(args)


def test_what_says_nothing_stays() -> None:
    assert ENCODER.value({"password": None, "token": "", "secret": False, "cookies": True}) == {
        "password": None,
        "token": "",
        "secret": False,
        "cookies": True,
    }


def test_a_secret_is_not_seen_through_a_cut() -> None:
    for encoder in (Encoder(max_bytes=size, redaction=REDACTION) for size in range(300, 700, 7)):
        for value in (
            "x" * 350 + " postgres://app:SEKRIT@host/" + "y" * 999,
            "z" * 350 + ' "password": "SEKRIT" ' * 99,
        ):
            for one in (value, [value], {"a": value}):
                assert "SEK" not in json.dumps(encoder.value(one))
    for limit in range(300, 400):
        assert "SEK" not in ENCODER.text("x" * 330 + " postgres://app:SEKRIT@host/", limit)


# -- texts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [
        ("connect(user='a', password='hunter2')", "connect(user='a', password='***')"),
        ("bad kwargs {'password': 'hunter2', 'n': 3}", "bad kwargs {'password': '***', 'n': 3}"),
        ('{"token": "hunt\\"er2", "n": 3}', '{"token": "***", "n": 3}'),
        ('"{\\"token\\": \\"hunter2\\"}"', '"{\\"token\\": \\"***\\"}"'),
        ("b'password': b'hunter2'", "b'password': b'***'"),
        ("401 for Authorization: Bearer hunter2", "401 for Authorization: ***"),
        ("sent Bearer hunter2.hunter2 to it", "sent Bearer *** to it"),
        ("could not connect to amqp://u:hunter2@h:5672//", "could not connect to amqp://***@h:5672//"),
        ("GET https://h/p?a=1&api_key=hunter2&b=2", "GET https://h/p?a=1&api_key=***&b=2"),
        ("invalid password: hunter2", "invalid password: ***"),
        ("d['password'] = 'hunter2'", "d['password'] = '***'"),
        ("Unexpected token: } at 3", "Unexpected token: } at 3"),
        ("max_tokens=5 exceeds 4", "max_tokens=5 exceeds 4"),
        ("http://host:8080/@me", "http://host:8080/@me"),
        ("ssh://git@github.com/a/b", "ssh://git@github.com/a/b"),
        ("key=value: nothing here == there", "key=value: nothing here == there"),
        (
            "1 error for Login\npassword\n  Too short [type=too_short, input_value='hunt, er2', input_type=str]\n",
            "1 error for Login\npassword\n  Too short [type=too_short, input_value=***, input_type=str]\n",
        ),
        ("Login\nuser.0.apiKey\n  Bad [input_value={'a': 'hunter2'}]", "Login\nuser.0.apiKey\n  Bad [input_value=***]"),
        (
            "Login\nuser\n  Bad [input_value='ada', input_type=str]",
            "Login\nuser\n  Bad [input_value='ada', input_type=str]",
        ),
        ("Key (token)=(hunter2) already exists.", "Key (token)=(***) already exists."),
        ("Key (name, lower(token))=(ada, hunter2) exists", "Key (name, lower(token))=(ada, ***) exists"),
        ("Key (name, token)=(ada, hunt, er2) exists", "Key (name, token)=(***) exists"),
        ("Key (name, id)=(ada, 7) already exists.", "Key (name, id)=(ada, 7) already exists."),
        ("Duplicate entry 'it's hunter2' for key 'login.token'", "Duplicate entry '***' for key 'login.token'"),
        ("Duplicate entry 'ada' for key 'login.name'", "Duplicate entry 'ada' for key 'login.name'"),
        ("Command '['curl', '--token', 'hunter2']' returned", "Command '['curl', '--token', '***']' returned"),
        ("headers (('X-Api-Key', 'hunter2'), ('a', 'b'))", "headers (('X-Api-Key', '***'), ('a', 'b'))"),
        ("headers [(b'cookie', b'hunter2')]", "headers [(b'cookie', b'***')]"),
        ("missing: ['user', 'password', 'email']", "missing: ['user', 'password', 'email']"),
        ("<a:login><a:password x='1'>hunter2</a:password>", "<a:login><a:password x='1'>***</a:password>"),
        ("<name>ada</name>", "<name>ada</name>"),
    ],
)
def test_messages_and_tracebacks(quoted: str, shown: str) -> None:
    assert error_message(ValueError(quoted), ENCODER) == shown
    assert ENCODER.traceback(f"Traceback\nValueError: {quoted}\n") == f"Traceback\nValueError: {shown}\n"
    assert error_message(ValueError(quoted)) == quoted


def test_a_value_is_read_less_suspiciously_than_a_message() -> None:
    prose = "Dear Ada, your password: choose a new one. Tokens: many."
    assert REDACTION.text(prose) is prose
    assert REDACTION.text("Token: hunter2") == "Token: ***"


@given(st.text(st.sampled_from("password=:'\"\\ {}[]()@/\n&?tokenBearer eyJ.-"), max_size=200))
def test_any_text_can_be_redacted(value: str) -> None:
    once = REDACTION.text(value, message=True, cut=True)
    assert len(once) <= 4 * len(value) + 4


@pytest.mark.parametrize(
    "piece",
    [
        "http://a:",
        "password=",
        "a:",
        '"',
        "\\",
        "eyJ",
        "-eyJaaaaaaaa",
        "Bearer ",
        "[",
        "password='",
        "a" * 70,
        " ",
        "@",
        "(",
        "(a)=(",
        "('a', ",
        "('a', 'a",
        "'--a', ",
        "<a>",
        "a\ninput_value=",
        "entry ' for key '",
        "</",
    ],
)
def test_no_text_takes_long(piece: str) -> None:
    value = (piece * 100_000)[:65_536]
    assert quick.seconds(lambda: REDACTION.text(value, message=True, cut=True), 1) < 1


# -- a user's own rule ---------------------------------------------------------------------


def test_a_rule_gets_the_path() -> None:
    asked: list[Path] = []

    def rule(path: Path, value: Any) -> bool:
        asked.append(path)
        return bool(value == "no")

    encoder = Encoder(redaction=Redaction(rule=rule))
    assert encoder.arguments(("no", [1, "no"], 3), {"k": {"l": "no"}}, ("first",)) == (
        [GONE, [1, GONE], 3],
        {"k": {"l": GONE}},
    )
    assert asked == [
        *[("args", "first"), ("args", 1), ("args", 1, 0), ("args", 1, 1), ("args", 2)],
        *[("kwargs", "k"), ("kwargs", "k", "l")],
    ]
    assert encoder.value("no") == encoder.value("no", "content") == GONE
    assert asked[-2:] == [("result",), ("content",)]


def test_a_rule_that_raises_redacts_and_is_reported() -> None:
    errors: list[Exception] = []

    def rule(path: Path, value: Any) -> bool:
        raise RuntimeError(path)

    assert Encoder(redaction=Redaction(rule=rule, on_error=errors.append)).value([1, 2]) == GONE
    assert [str(one) for one in errors] == ["('result',)"]
    assert Encoder(redaction=Redaction(rule=rule)).value({"a": 1}) == GONE


def test_the_soft_time_limit_passes_through_a_rule() -> None:
    def rule(path: Path, value: Any) -> bool:
        raise SoftTimeLimitExceeded

    with pytest.raises(SoftTimeLimitExceeded):
        Encoder(redaction=Redaction(rule=rule)).value([1])
