"""The shapes in which a secret comes, none of which may be written, and the texts that must stay whole."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import urllib.parse
from collections import UserDict, deque, namedtuple
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from celery_asynctask.capture.payload import Encoder, error_message, error_type, label
from celery_asynctask.capture.payload.plain import plain_text
from celery_asynctask.capture.payload.redaction import Redaction
from celery_asynctask.core.limits import MAX_NAME
from tests import quick

REDACTION = Redaction()
ENCODER = Encoder(redaction=REDACTION)

Login = namedtuple("Login", "user password")
Header = namedtuple("Header", "name value")
Card = namedtuple("Card", "brand number")


@dataclasses.dataclass
class Variable:
    name: str
    value: str


TEXTS = r"""
password={}
PGPASSWORD={} psql -h db
MYSQL_PWD={} mysqldump shop
SSHPASS={} sshpass -e ssh host
export DB_PASSWORD="{}"
password := "{}"
password => '{}'
{{"user": "ada", "passwort": "{}"}}
{{"user": "ada", "contraseña": "{}"}}
{{"user": "ada", "пароль": "{}"}}
{{"user": "ada", "ログインパスワード": "{}"}}
{{&quot;user&quot;: &quot;ada&quot;, &quot;password&quot;: &quot;{}&quot;}}
{{&#34;password&#34;:&#34;{}&#34;}}
{{\u0022password\u0022:\u0022{}\u0022}}
{{password: {}, user: ada}}
POST / HTTP/1.1\r\nAuthorization: Token {}\r\nHost: h
curl -H 'X-Api-Key: {}' https://h
curl -H "Authorization: ApiKey {}" https://h
net use x: /user:ada /password:{}
<password>{}</password>
<soap:Envelope><wsse:Password Type="x">{}</wsse:Password></soap:Envelope>
<Login><Secret>⏎  {}⏎</Secret></Login>
<password><![CDATA[{}]]></password>
<user name="ada" password="{}"/>
<user name="ada" ns:password='{}'/>
<add key="Password" value="{}" />
<input value="{}" type="hidden" name="csrf_token">
<property name="connection.password">{}</property>
<string name="api_key">{}</string>
<dict><key>password</key><string>{}</string></dict>
&lt;password&gt;{}&lt;/password&gt;
mysqldump --password {} shop
mysqldump --password={} shop
tool --api-key "{}" --verbose
tool --user ada -token {}
keytool -storepass {} -keypass x
gpg --batch --passphrase {} -c file
mysql -u root -p{} shop
/usr/bin/mysqldump -uroot -p'{}' shop
mariadb-dump -p{} shop
sudo -u ada mysql -h db -p{} | gzip
curl -u ada:{} https://h
curl -sS --user ada:{} https://h
curl -uada:{} https://h
sshpass -p {} ssh host
sshpass -p{} ssh host
redis-cli -h cache -a {} ping
mongosh --host db -u ada -p {}
docker login -u ada -p {} registry
az acr login -u ada -p {}
ldapsearch -x -D cn=ada -w {}
smbclient -U ada%{} //host/share
sqlcmd -S db -U ada -P {}
sqlplus scott/{}@db
openssl enc -aes-256-cbc -pass pass:{}
openssl rsa -in key.pem -passin pass:{}
7z x -p{} file.7z
unzip -P {} file.zip
plink -pw {} host
mosquitto_pub -h h -u ada -P {} -t t
snmpwalk -v2c -c {} host
lftp -u ada,{} host
rabbitmqctl add_user ada {}
htpasswd -bB file ada {}
kubectl create secret generic s --from-literal=x={}
aws configure set aws_secret_access_key {}
jdbc:oracle:thin:scott/{}@db:1521:x
jdbc:mysql://db/shop?user=ada&password={}
jdbc:sqlserver://db;user=ada;password={};encrypt=true
Driver={{SQL Server}};Server=db;UID=ada;PWD={};
Driver={{SQL Server}};Server=db;UID=ada;PWD={{{}}};
Endpoint=sb://h/;SharedAccessKeyName=Root;SharedAccessKey={}=
AccountName=shop;AccountKey={}==;EndpointSuffix=x
https://h/cb?code={}&state=x
https://h/blob?sv=2020&sig={}&se=2030
https://b.s3.amazonaws.com/k?X-Amz-Date=2026&X-Amz-Signature={}
https://cas/login?ticket={}
https://{}@github.com/a/b.git
redis://:{}@cache/0
redis%3A%2F%2F%3A{}%40cache%2F0
%7B%22user%22%3A%22ada%22%2C%22password%22%3A%22{}%22%7D
%257B%2522password%2522%253A%2522{}%2522%257D
user%3Dada%26password%3D{}%26x%3D1
https://h/login?next=%2Fcb%3Ftoken%3D{}%26x%3D1
Bearer {}
BEARER {}
ALTER ROLE ada WITH PASSWORD '{}'
CREATE USER ada IDENTIFIED BY '{}'
CREATE LOGIN ada WITH PASSWORD = N'{}'
SET PASSWORD FOR ada = PASSWORD('{}')
machine h login ada password {}
headers [["Authorization", "{}"]]
headers (('X-Api-Key', '{}'), ('a', 'b'))
argv ['tool', '--token', '{}']
-----BEGIN PRIVATE KEY-----⏎{}⏎-----END PRIVATE KEY-----
-----BEGIN PGP PRIVATE KEY BLOCK-----⏎⏎{}⏎-----END PGP PRIVATE KEY BLOCK-----
-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----
---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----⏎{}⏎---- END SSH2 ENCRYPTED PRIVATE KEY ----
PuTTY-User-Key-File-2: ssh-rsa⏎Private-Lines: 1⏎{}⏎Private-MAC: x
psk: {}
user_pw={}
motDePasse = {}
hasło={}
wachtwoord={}
senha={}
密码={}
keystore_pass={}
ccnum={}
reset-code: {}
mnemonic={}
[{{"name": "DB_PASSWORD", "value": "{}"}}]
[{{"value": "{}", "name": "DB_PASSWORD"}}]
{{\"key\": \"password\", \"value\": \"{}\"}}
- name: DB_PASSWORD⏎  value: {}⏎- name: LOG_LEVEL⏎  value: debug
password: |⏎  {}⏎user: ada
userPassword:: {}
sent with Authorization: Bearer {}
user: ada, db_password: {}, n: 1
API key: {}
Mot de passe : {}
your card number={}
--b⏎Content-Disposition: form-data; name="password"⏎⏎{}⏎--b--
define('DB_PASSWORD', '{}');
localStorage.setItem("token", "{}")
login(user: "ada", password: "{}")
spring.datasource.password = {}
""".strip().splitlines()
"""With ⏎ for the end of a line."""

TOKENS = re.findall(
    r"\S+",
    r"""
    ghp_{} gho_{} ghs_{} github_pat_11A_{} glpat-{} sk_live_{} rk_live_{} sk_test_{} whsec_{} xoxb-1-{} xoxp-{}
    xapp-1-{} sk-ant-api03-{} sk-proj-{} npm_{} pypi-AgE{} dop_v1_{} shpat_{} hf_{} dckr_pat_{} glsa_{} hvs.{} ntn_{}
    lin_api_{} AIzaSyA{} ya29.{} GOCSPX-{} asynctask_{} SG.abcdefghijkl.{} 123456789:AA{} gsk_{}abc pscale_tkn_{}
    eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{} https://hooks.slack.com/services/T0/B0/{} hooks.slack.com/workflows/T0/{}
    https://api.telegram.org/bot1:{}/sendMessage https://discord.com/api/webhooks/123/{} AGE-SECRET-KEY-1{} AKIA{}
    ASIA{}
    """,
)

NAMES = re.findall(
    r"\S+",
    r"""
    pw user_pw psk wifiPsk creds db_creds mnemonic seed_phrase privkey rsa_key keystore_pass storepass cardnum ccnum pan
    card_pan account_no sort_code reset_code magic_link passwort userPasswort kennwort senha contraseña contrasena
    mot_de_passe motdepasse clave wachtwoord hasło haslo пароль 密码 用户密码 パスワード 비밀번호 PW Psk
    """,
)
VALUES: dict[str, Callable[[str], Any]] = {
    "a named tuple": lambda secret: Login("ada", secret),
    "named tuples in a list": lambda secret: [Login("ada", secret)],
    "a named tuple of name and value": lambda secret: Header("Authorization", secret),
    "a named tuple below a name": lambda secret: {"card": Card("visa", secret)},
    "a dataclass of name and value": lambda secret: Variable("DB_PASSWORD", secret),
    "a named tuple in a set": lambda secret: {Login("ada", secret)},
    "a named tuple in a deque": lambda secret: deque([Login("ada", secret)]),
    "Name and Value": lambda secret: {"Name": "password", "Value": secret},
    "KEY and VALUE": lambda secret: {"KEY": "PASSWORD", "VALUE": secret},
    "Key and Value in a list": lambda secret: {"Tags": [{"Key": "ApiToken", "Value": secret}]},
    "ParameterKey": lambda secret: {"ParameterKey": "DbPassword", "ParameterValue": secret},
    "field, old and new": lambda secret: {"field": "password", "old": secret, "new": secret},
    "a JSON patch": lambda secret: [{"op": "replace", "path": "/user/password", "value": secret}],
    "an error of pydantic": lambda secret: [{"loc": ["body", "password"], "input": secret, "type": "x"}],
    "header and values": lambda secret: {"header": "X-Api-Key", "values": [secret]},
    "k and v": lambda secret: {"k": "token", "v": secret},
    "an attribute of OpenTelemetry": lambda secret: {"key": "password", "value": {"stringValue": secret}},
    "a mapping of another kind": lambda secret: UserDict({"Name": "password", "Value": secret}),
    "a pair": lambda secret: ("Authorization", secret),
    "a pair in a list": lambda secret: [["password", secret]],
    "a list of two": lambda secret: ["Authorization", secret],
    "a pair of bytes": lambda secret: [(b"authorization", secret.encode())],
    "three": lambda secret: ("Authorization", secret, 1),
    "three in a list": lambda secret: [["Authorization", secret, True]],
    "raw headers": lambda secret: {"rawHeaders": ["Host", "h", "Authorization", secret]},
    "an option": lambda secret: ["tool", "--password", secret, "x"],
    "an option with one dash": lambda secret: ["keytool", "-storepass", secret],
    "an option with its value": lambda secret: ["tool", f"--password={secret}"],
    "mysql": lambda secret: ["mysql", "-u", "root", f"-p{secret}"],
    "curl": lambda secret: ["curl", "-u", f"ada:{secret}", "https://h"],
    "sshpass": lambda secret: ["sshpass", "-p", secret, "ssh", "host"],
    "sudo": lambda secret: ["sudo", "redis-cli", "-a", secret],
    "a path of a program": lambda secret: ["/usr/sbin/rabbitmqctl", "add_user", "ada", secret],
    "a shell": lambda secret: ["sh", "-c", f"PGPASSWORD={secret} psql"],
    "bytes with NUL": lambda secret: f"PASSWORD={secret}\0HOME=/root\0".encode(),
    "bytes with NUL before a token": lambda secret: f"a\0ghp_{secret}\0".encode(),
    "bytes of UTF-16": lambda secret: f"password={secret}".encode("utf-16"),
    "bytes of Latin-1": lambda secret: f"contraseña={secret}".encode("latin-1"),
    "basic authentication": lambda secret: f"Basic {base64.b64encode(f'ada:{secret}'.encode()).decode()}",
    "quoted for a URL": lambda secret: urllib.parse.quote(json.dumps({"password": secret})),
    "quoted twice": lambda secret: urllib.parse.quote(urllib.parse.quote(json.dumps({"password": secret}))),
    "a form": lambda secret: urllib.parse.urlencode({"next": f"/cb?token={secret}"}),
    "an escaped name": lambda secret: {"contrasen\u0303a": secret},
    "a token as a key": lambda secret: {f"ghp_{secret}": 1},
    "a Secret of Kubernetes": lambda secret: {"kind": "Secret", "data": {"a": secret}, "stringData": {"b": secret}},
    "an input": lambda secret: {"type": "password", "value": secret},
    "capitals": lambda secret: {"KENNWORT": secret, "Mot De Passe": secret},
}
for _name in NAMES:
    VALUES[f"the name {_name}"] = partial(lambda name, secret: {name: secret}, _name)


def secret_of(number: int) -> str:
    return f"HUNT{number:04}ZQ9XKD7W"


SHAPES: dict[str, Any] = {}
for _text in (*TEXTS, *TOKENS):
    assert _text not in SHAPES
    SHAPES[_text] = _text.replace("⏎", "\n").format(secret_of(len(SHAPES)))
for _name, _make in VALUES.items():
    SHAPES[_name] = _make(secret_of(len(SHAPES)))


def is_in(written: Any, secret: str) -> bool:
    """Whether the JSON of a value has the secret, or the middle of it, in any of its forms."""
    text = json.dumps(written, ensure_ascii=False)
    return any(
        form in text
        for form in (secret, base64.b64encode(secret.encode()).decode()[2:-4], secret.encode("utf-16-le").hex())
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_is_written(shape: str) -> None:
    value, secret = SHAPES[shape], secret_of(list(SHAPES).index(shape))
    assert not is_in(ENCODER.value(value), secret)
    for nested in ([value], {"a": value}, {"a": [{"b": value}]}):
        assert not is_in(ENCODER.value(nested), secret)
    args, kwargs = ENCODER.arguments((1, value), {"k": value})
    assert not is_in(args, secret)
    assert not is_in(kwargs, secret)
    small = Encoder(400, REDACTION)
    assert not is_in(small.value([value, "x" * 500]), secret)
    if type(value) is str:
        assert plain_text((value,), {}, (), REDACTION, 65_536) is None
        assert plain_text((), {"k": value}, (), REDACTION, 65_536) is None
        assert not is_in(error_message(ValueError(f"cannot do: {value}"), ENCODER), secret)
        assert not is_in(ENCODER.traceback(f"Traceback\nValueError: {value}\n"), secret)


@pytest.mark.parametrize("args", [("Authorization",), ("password",), ("rabbitmqctl", "add_user", "ada"), ("--token",)])
def test_arguments_are_a_list_too(args: tuple[str, ...]) -> None:
    assert not is_in(ENCODER.arguments((*args, secret_of(1)), {})[0], secret_of(1))
    assert plain_text((*args, secret_of(1)), {}, (), REDACTION, 65_536) is None


def test_arguments_that_name_another() -> None:
    names = ("owner", "name", "value")
    assert not is_in(ENCODER.arguments((1, "DB_PASSWORD", secret_of(1)), {}, names)[0], secret_of(1))
    assert plain_text((1, "DB_PASSWORD", secret_of(1)), {}, names, REDACTION, 65_536) is None
    assert not is_in(ENCODER.arguments((), {"name": "DB_PASSWORD", "value": secret_of(1)})[1], secret_of(1))


# -- what stays ----------------------------------------------------------------------------

HARMLESS = """
6f1c2a0e-5d0b-4f60-9d3b-0f1f4b3d2c11
d41d8cd98f00b204e9800998ecf8427e
e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
5f4dcc3b
2026-11-30T16:49:21.123456+00:00
2026-11-30 16:49:21
10.0.0.1:5432
[::1]:8000
ada@example.com
Ada Lovelace <ada@example.com>
https://example.com/a/b?page=2&sort=-created&lang=de
https://example.com/search?q=password+reset
https://example.com/docs#token
https://shop.example/p?country_code=DE&error_code=invalid_request
https://example.com/p?code=404
http://host:8080/@me
git@github.com:a/b.git
ssh://git@github.com/a/b
s3://bucket/key/2026/11/30/report.csv
/var/lib/app/secrets/readme.txt
C:\\Users\\ada\\file.txt
arn:aws:s3:::bucket/key
sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
registry.example/app:1.2.3
app.tasks.refresh_token
tasks.send_password_reset_email
celery@worker-1.example.com
gen42@host
The password was changed.
Your token has expired, please sign in again.
the following arguments are required: --password, --user
--password is required
option --token requires an argument
use --password or --token to sign in
max_tokens=512 temperature=0.2
retries=3, timeout=10, queue=default
select id, name from users where id = 7
update users set name = 'ada' where id = 7
SELECT count(*) FROM task WHERE status = 'FAILURE'
for key, value in items: print(key, value)
a < b and c > d
<name>ada</name>
<user id="7" name="ada"/>
<a href="https://example.com/">here</a>
usage: login USER PASSWORD
usage: login <user> <password> [options]
100% of the tokens
50%25 off
a=1&b=2
Bearer of good news
Basic authentication is off
basic rules of grammar
the mysql client
docker run -p 8080:80 image
docker compose -p shop up
mkdir -p /var/lib/app
ls -la /tmp
tar -xzf file.tgz -C /tmp
curl -sS https://example.com/
ssh -p 2222 ada@host
psql -h db -U ada -d shop
python -m pytest -p no:cacheprovider tests
git commit -m message
rsync -a --delete a/ b/
task-runner-with-a-rather-long-name-1234567890
risk-assessment-for-the-year-2026-part-2
sk-learn-extension
npm_config_cache
hf_hub_download
shape_of_water_and_other_things
SK1234
ASIAN MARKETS 2026
AKIA is a prefix
company=ACME power=9000 pinned=true
compass north, passenger seat 4
seed=42
expand: pancake
spinning pinwheel: 4
keyboard: qwerty
author: Ada
authority: local
description: a long text about nothing
{"name": "ada", "value": 7}
{"key": "color", "value": "red"}
{"tokens": 12, "prompt_tokens": 7}
["a", "b", "c"]
['curl', '--output', 'file']
KeyError: 'user'
invalid literal for int() with base 10: 'x'
Connection refused: amqp://mq.example:5672//
Lorem ipsum dolor sit amet, consectetur adipiscing elit.
Grüße aus München — naïve café
状态: 完成
[{"name": "LOG_LEVEL", "value": "debug"}]
- name: LOG_LEVEL⏎  value: debug
public key: none
Dear Ada, your password: choose a new one.
std::string name
0.0.0.0 - - [30/Nov/2026] "GET / HTTP/1.1" 200
""".strip().splitlines()
HARMLESS_VALUES: list[Any] = [
    {"only": ["password", "email"]},
    {"update_fields": ["password", "last_login"]},
    ["id", "token", "name", "email"],
    ["color", "red"],
    [["color", "red"], ["size", "XL"]],
    {"name": "ada", "value": 7},
    {"key": "color", "value": "red", "content": "x"},
    {"loc": ["body", "email"], "input": "x"},
    {"path": "/user/name", "value": "ada"},
    ["mkdir", "-p", "dir"],
    ["docker", "run", "-p", "8080:80", "image"],
    ["ls", "-la"],
    ["tool", "--verbose", "--token"],
    {"company": "ACME", "power": 9, "pinned": True, "seed": 42, "expand": "x", "companion": "x", "keyboard": "x"},
    {"panel": "x", "pane": 1, "clavier": "x", "psktest": 1, "credit": 5, "account": 7, "sort": "x", "code": "x"},
    {"x": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0"},
]


@pytest.mark.parametrize("text", HARMLESS)
def test_plain_texts_stay_whole(text: str) -> None:
    assert ENCODER.value(text) == text
    assert ENCODER.value([text, 7]) == [text, 7]
    assert ENCODER.arguments((text,), {"k": text}) == ([text], {"k": text})
    assert label(text) == text


@pytest.mark.parametrize("value", HARMLESS_VALUES, ids=str)
def test_plain_values_stay_whole(value: Any) -> None:
    assert ENCODER.value(value) == Encoder().value(value)


def test_there_are_enough() -> None:
    assert len(SHAPES) >= 160
    assert len(HARMLESS) + len(HARMLESS_VALUES) >= 90


# -- names that are recorded as they are ---------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("billing.charge", "billing.charge"),
        ("sync redis://:hunter2@cache/0", "sync redis://***@cache/0"),
        ("celery@h token=hunter2", "celery@h token=***"),
        ("ada ghp_0123456789abcdef0123", "ada ***"),
        ("a\0b", "a\ufffdb"),
        ("x" * 300, "x" * MAX_NAME),
        ("x" * (MAX_NAME - 15) + " redis://:hunter2@cache", "x" * (MAX_NAME - 15) + " redis://***@ca"),
    ],
)
def test_a_label_has_no_credentials(given: str, shown: str) -> None:
    assert label(given) == shown
    assert error_type(type(given.replace("\0", "\ufffd"), (Exception,), {})()) == shown


# -- time ----------------------------------------------------------------------------------

PIECES = re.findall(
    r"\S+",
    r"""
    ghp_ _pat_ sk- sk-ant- pypi- pypi-aA1 SG. SG.aaaaaaaaaa. AKIA eyJ eyJaaaaaaaa. xoxb- -----BEGIN Private-Lines:
    asynctask_ 1//0 -----BEGIN·PRIVATE·KEY----- Basic· Basic·aaaa Bearer·a hooks.slack.com/services/ 1:AA
    api.telegram.org/bot mysql· mysql·-p curl·-u· curl·-u·a: docker· docker·login· sqlplus·a/ --password· -a· ·--
    htpasswd·-b·a· <a <a> <a>a <a· <a·b= <a·name="password" <password> <![CDATA[ <a><![CDATA[ <a><![CDATA[] &lt;
    &lt;a&gt; &lt;a&gt;a &quot; <key>a</key> %22 %3A %25 a%3A a%3D %22a%22%3A %22password%22%3A%22 %3A%2F%2F
    password%3D password%3D%25 %2540 + \u0022 \u0022a\u0022: jdbc:oracle:thin:a/ identified·by· password·' login·
    login·a·password· user· [[ [["a", [["password","a ('a',' \" '-- password:= API·key: password:·|⏎· "name":
    "name":"password","value":" "name":"a", name: "value":"a","name":" value: form-data; form-data;·name="a"⏎a:
    password&quot;: {password: 'password: /password: \nauthorization: code= ?code= assword key:·a⏎
    """,
)


@pytest.mark.parametrize("piece", [piece.replace("·", " ").replace("⏎", "\n") for piece in PIECES])
def test_no_shape_takes_long(piece: str) -> None:
    value = (piece * 65_536)[:65_536]
    for text in (value, f"login ' \" - {value} = : <%</"):
        assert quick.seconds(partial(REDACTION.text, text, message=True, cut=True), 1) < 1


def test_no_list_takes_long() -> None:
    for one in ("--password", "-p", "mysql", "Authorization", "a b"):
        assert quick.seconds(partial(ENCODER.value, [one] * 10_000), 1) < 1
    pairs = [{"name": "password", "value": "x"}] * 3_000
    assert quick.seconds(lambda: ENCODER.value(pairs), 1) < 1


def test_python_s_own_named_tuples_stay() -> None:
    value = os.stat_result(range(10))
    assert ENCODER.value(value) == list(range(10))


@pytest.mark.parametrize(
    "text", ["\u5bc6\u7801\uff1a{}", "\u30d1\u30b9\u30ef\u30fc\u30c9\uff1d\u3000{}", "password:\xa0{}"]
)
def test_the_signs_and_blanks_of_other_scripts_count(text: str) -> None:
    assert REDACTION.text(text.format("Zx9hunter2")) == text.format("***")
    assert "Zx9hunter2" not in json.dumps(ENCODER.value([text.format("Zx9hunter2")]))
