"""Payloads of objects: those of other libraries, and those that resist; unknown objects are not touched."""

from __future__ import annotations

import dataclasses
import datetime as dt
import fractions
import ipaddress
import pathlib
import sys
import types
import uuid
import zoneinfo
from collections import ChainMap, UserDict, UserList, UserString
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import pytest

from celery_asynctask.capture.payload import Encoder, safe_repr
from celery_asynctask.capture.payload.readers import MAX_ITEMS
from celery_asynctask.capture.payload.redaction import Redaction
from celery_asynctask.core.marks import is_whole
from tests.unit.capture.payload.values import MARK, Color, Meta, Order, argument, armed, hostile, to_json, touch

# -- objects of other libraries ------------------------------------------------------------


def test_numpy_scalars_and_arrays() -> None:
    numpy = import_module("numpy")
    values = [numpy.int64(3), numpy.float32(0.5), numpy.float64(1.5), numpy.bool_(True), numpy.str_("x")]
    assert to_json(values) == [3, 0.5, 1.5, True, "x"]
    assert to_json(numpy.datetime64("2026-01-02T03:04:05.123456789")) == "2026-01-02T03:04:05.123456789"
    assert to_json(numpy.longdouble(1))["type"] == "numpy.longdouble"
    assert to_json(numpy.array([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]
    assert to_json(numpy.zeros(10**7)) == {MARK: "cut", "type": "numpy.ndarray", "size": 10**7}
    assert [is_whole(argument(one)) for one in values] == [False, False, True, False, True]


def test_attrs_and_pydantic_objects_without_what_they_hide() -> None:
    attrs, pydantic = import_module("attrs"), import_module("pydantic")

    @attrs.define
    class Attrs:
        a: int
        hidden: str = attrs.field(repr=False)

    class Model(pydantic.BaseModel, extra="allow"):  # type: ignore[misc,name-defined,call-arg]
        a: int
        hidden: str = pydantic.Field("h", repr=False)

        @pydantic.computed_field  # type: ignore[prop-decorator, untyped-decorator]
        @property
        def computed(self) -> int:
            raise RuntimeError("asked")

    @dataclasses.dataclass
    class Data:
        a: int
        hidden: str = dataclasses.field(repr=False)

        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    gone = {MARK: "redacted"}
    redacting = Encoder(redaction=Redaction())
    for value in (Attrs(1, "h"), Data(1, "h"), Model(a=1)):  # type: ignore[call-arg]
        assert to_json(value) == {"a": 1, "hidden": "h"}
        assert redacting.value(value) == {"a": 1, "hidden": gone}
    assert redacting.value(Model(a=1, token="x", b=2)) == {"a": 1, "hidden": gone, "token": gone, "b": 2}
    assert to_json(pydantic.SecretStr("x")) == {MARK: "object", "type": "pydantic.types.SecretStr"}


def test_nothing_is_imported() -> None:
    before = set(sys.modules)
    to_json([object(), Order(1, []), Color.RED, uuid.UUID(int=1), types.SimpleNamespace(a=1)])
    assert set(sys.modules) == before


def test_generators_are_not_consumed() -> None:
    generator = (number for number in range(3))
    assert to_json([generator, map(str, generator)]) == [{MARK: "object", "type": one} for one in ("generator", "map")]
    assert list(generator) == [0, 1, 2]


@pytest.mark.parametrize(
    "value",
    [
        fractions.Fraction(1, 3),
        zoneinfo.ZoneInfo("Europe/Berlin"),
        *(ipaddress.ip_address(one) for one in ("10.0.0.1", "::1")),
        *(ipaddress.ip_network(one) for one in ("10.0.0.0/8", "fe80::/10")),
        *(kind("a") for kind in (pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.Path)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_its_text(value: Any) -> None:
    assert to_json(value) == str(value)


# -- values that resist ----------------------------------------------------------------------


def impostor() -> Any:
    """An instance of a class that pretends to be another."""
    return type("Fraction", (), {"__module__": "fractions", "__str__": touch("__str__")})()


@pytest.mark.parametrize(
    "make",
    [
        lambda: hostile(object),
        lambda: hostile(Exception, "x"),
        lambda: [Meta("OnlyMeta", (), {})()][0],
        lambda: hostile(pathlib.PurePosixPath, "/x"),
        lambda: hostile(dt.tzinfo),
        lambda: Meta("AClass", (), {}),
        impostor,
    ],
)
def test_unknown_objects_are_described_and_not_touched(make: Any) -> None:
    value = make()
    with armed():
        for converted in (to_json(value), to_json({"k": [value]})["k"][0], argument(value)):
            assert converted[MARK] == "object"
        assert "<" in safe_repr(value)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: hostile(UserDict, {"a": 1}), {"a": 1}),
        (lambda: types.MappingProxyType(hostile(dict, {"a": 1})), {"a": 1}),
        (lambda: ChainMap(hostile(dict, {"a": 1}), {"b": 2}), {"a": 1, "b": 2}),
        (lambda: hostile(ChainMap, {"a": 1}), {"a": 1}),
        (lambda: ChainMap({hostile(str, "a"): 1}, {hostile(str, "a"): 2, "b": 3}), {"a": 1, "b": 3}),
        (lambda: ChainMap({hostile(tuple, [1]): 1}), {"[1]": 1, MARK: {MARK: "keys"}}),
        (lambda: hostile(UserList, [1]), [1]),
        (lambda: hostile(UserString, "x"), "x"),
    ],
)
def test_wrapped_containers_are_read_where_they_keep_what_they_hold(make: Any, expected: Any) -> None:
    value = make()
    with armed():
        converted = to_json(value)
        argued = argument(value)
    assert converted == expected
    assert (argued[MARK], is_whole(argued)) == ("as", False)


@pytest.mark.parametrize(
    "make",
    [
        lambda: hostile(Mapping),
        lambda: types.MappingProxyType(hostile(Mapping)),
        lambda: ChainMap({"a": 1}, hostile(Mapping)),
        type("Late", (UserDict,), {"__init__": lambda self: None}),
        type("Odd", (UserList,), {"__init__": lambda self: setattr(self, "data", 7)}),
        type("Odd", (ChainMap,), {"__init__": lambda self: setattr(self, "maps", 7)}),
    ],
)
def test_a_user_s_own_container_is_described(make: Any) -> None:
    value = make()
    with armed():
        assert to_json([value])[0][MARK] == argument(value)[MARK] == "object"


def test_wrapped_containers_end() -> None:
    itself = UserDict[str, Any]()
    itself["a"] = types.MappingProxyType(itself)
    assert to_json(itself)["a"]["a"][MARK] == "cycle"
    itself.data = itself  # type: ignore[assignment]
    assert to_json(itself)[MARK] == "object"
    many: Any = types.MappingProxyType(dict.fromkeys(map(str, range(MAX_ITEMS + 1))))
    for one in (many, ChainMap({"-": 0}, many)):
        argued = Encoder(10**6).value(one)
        assert argued[MARK][MARK] == "cut"
        assert argued[MARK]["size"] >= MAX_ITEMS + 1
    assert to_json(ChainMap(*[{}] * (2 * MAX_ITEMS)))[MARK] == "object"


def test_keyword_arguments_are_those_that_the_task_gets() -> None:
    """In any kind of mapping, as a task that runs eagerly may get them."""
    for kwargs in (types.MappingProxyType({"a": 1}), UserDict({"a": 1}), ChainMap({"a": 1})):
        assert Encoder().arguments((), kwargs) == ([], {"a": 1})


def test_a_user_s_time_zone_is_not_called() -> None:
    value = dt.datetime(2026, 1, 2, 3, tzinfo=hostile(dt.tzinfo))
    with armed():
        assert to_json(value) == {MARK: "as", "type": "datetime.datetime", "value": "2026-01-02T03:00:00"}


def test_a_class_may_lie_about_its_name_and_dict() -> None:
    class Liar:
        __dict__ = property(touch("__dict__"))
        __module__ = 3  # type: ignore[assignment]
        __dataclass_fields__ = property(touch("fields"))

    with armed():
        assert to_json(Liar())["type"].endswith("Liar")
        assert to_json(type("N" * 10_000, (), {})())["type"] == f"{__name__}.{'N' * 100}"[:100]


def test_cycles_end() -> None:
    endless: list[Any] = []
    endless.append(endless)
    mapping: dict[str, Any] = {"a": {}}
    mapping["a"]["b"] = mapping
    order = Order(1, [])
    order.lines.append(order)  # type: ignore[arg-type]
    assert to_json(endless) == [{MARK: "cycle", "type": "list", "up": 1}]
    assert to_json(mapping) == {"a": {"b": {MARK: "cycle", "type": "dict", "up": 2}}}
    assert to_json(order)["lines"] == [{MARK: "cycle", "type": f"{Order.__module__}.Order", "up": 2}]
    twice = [1]
    assert to_json([twice, twice]) == [[1], [1]]
