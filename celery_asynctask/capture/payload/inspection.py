"""Inspects objects without running any of their code: no attribute lookup, property, ``repr`` or ``isinstance``.

Pure. A class is read through the descriptors of `type`, an instance through those with which CPython gives it a
``__dict__`` or slots. Classes of other libraries are recognized by identity with those in `sys.modules`.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from typing import Any, Final

MAX_TYPE: Final = 100
"""Characters kept of a type's name, all ASCII."""
_MISSING: Final = object()


class Hidden:
    """The value of a field that says ``repr=False``."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Call:
    """One item of celery.map and its like: what another task gets as its positional arguments, a list of them if
    ``starred``, else the only one. ``names`` are those of its parameters."""

    __slots__ = ("names", "starred", "value")

    def __init__(self, value: Any, names: tuple[str, ...], *, starred: bool) -> None:
        self.value = value
        self.names = names
        self.starred = starred


class Calls(Call):
    """All such items: ``value`` is a list of them."""

    __slots__ = ()


def bare(value: Any) -> Any:
    """The value as the user has it, without what marks it here."""
    kind = type(value)
    return value.value if kind is Hidden or kind is Call or kind is Calls else value


mro = type.__dict__["__mro__"].__get__
"""The method resolution order of a class, whatever its metaclass says; the same for the next ones."""
_namespace = type.__dict__["__dict__"].__get__
_module = type.__dict__["__module__"].__get__
_qualified_name = type.__dict__["__qualname__"].__get__
class_name = type.__dict__["__name__"].__get__

_DICT_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType)


def inherits(kind: type, base: type | None) -> bool:
    """Whether ``kind`` is a subclass of ``base``, by identity."""
    for parent in mro(kind):  # noqa: SIM110 - twice as fast as any()
        if parent is base:
            return True
    return False


def type_name(kind: type) -> str:
    """``module.Name`` of a class; without the module for built-in classes."""
    try:
        module = _module(kind)
    except Exception:  # noqa: BLE001 - a class may delete it
        module = None
    name = str.__getitem__(_qualified_name(kind), slice(0, MAX_TYPE))
    if type(module) is str and module != "builtins":
        name = f"{module[:MAX_TYPE]}.{name}"
    return name.encode("ascii", "replace").decode()[:MAX_TYPE].replace("\0", "?")


def function_name(value: Any) -> str:
    """``module.name`` of a Python function."""
    module, name = (types.FunctionType.__dict__[key].__get__(value) for key in ("__module__", "__qualname__"))
    shown = f"{module}.{name}" if type(module) is str and type(name) is str else "function"
    return shown[:MAX_TYPE].encode("ascii", "replace").decode().replace("\0", "?")


def instance_dict(value: Any) -> dict[str, Any]:
    """The instance's ``__dict__``; empty if it has none."""
    for base in mro(type(value)):
        descriptor = _namespace(base).get("__dict__")
        if type(descriptor) in _DICT_DESCRIPTORS and base is not type:
            own = descriptor.__get__(value)
            return own if inherits(type(own), dict) else {}
    return {}


def slot(value: Any, name: str, default: Any = None) -> Any:
    """The value in the instance's slot ``name``."""
    for base in mro(type(value)):
        descriptor = _namespace(base).get(name)
        if type(descriptor) is types.MemberDescriptorType:
            try:
                return descriptor.__get__(value)
            except AttributeError:
                return default
    return default


def known(module: str, name: str) -> Any:
    """A module's attribute; None if the module is not loaded. Imports nothing."""
    loaded = sys.modules.get(module)
    return None if loaded is None else dict.get(instance_dict(loaded), name)


def fields(value: Any, *, hide: bool) -> list[tuple[str, Any]] | None:
    """Names and values of the fields of a dataclass, attrs or pydantic object; None for any other object. Fields
    without a value are left out. With ``hide``, the value of a field with ``repr=False`` is `Hidden`."""
    kind = type(value)
    model = known("pydantic.main", "BaseModel")
    if model is not None and inherits(kind, model):
        declared = _declared(kind, "__pydantic_fields__") or _declared(kind, "model_fields")
        return _of_pydantic(value, declared if hide else None)
    model = known("pydantic.v1.main", "BaseModel")
    if model is not None and inherits(kind, model):
        return [(name, member) for name, member in dict.items(instance_dict(value)) if type(name) is str]
    declared = _declared(kind, "__dataclass_fields__")
    if type(declared) is dict:
        hidden = {name: type(field) is dataclasses.Field and field.repr is False for name, field in declared.items()}
    else:
        attribute, attributes = known("attr", "Attribute"), _declared(kind, "__attrs_attrs__")
        if attribute is None or attributes is None or not inherits(type(attributes), tuple):
            return None
        hidden = {field.name: field.repr is False for field in tuple.__iter__(attributes) if type(field) is attribute}
    own = instance_dict(value)
    members = []
    for name, is_hidden in hidden.items():
        member = dict.get(own, name, _MISSING)
        if member is _MISSING:
            member = slot(value, name, _MISSING)
        if member is not _MISSING:
            members.append((name, Hidden(member) if hide and is_hidden else member))
    return members


def _of_pydantic(value: Any, declared: Any) -> list[tuple[str, Any]]:
    field_info = known("pydantic.fields", "FieldInfo")
    declared = declared if type(declared) is dict else {}
    hidden = {name for name, field in declared.items() if type(field) is field_info and field.repr is False}
    extra = slot(value, "__pydantic_extra__")
    return [
        (name, Hidden(member) if name in hidden else member)
        for part in (instance_dict(value), extra if type(extra) is dict else {})
        for name, member in dict.items(part)
        if type(name) is str
    ]


def _declared(kind: type, name: str) -> Any:
    for base in mro(kind):
        if (declared := _namespace(base).get(name)) is not None:
            return declared
    return None


def tuple_fields(kind: type) -> tuple[str, ...]:
    """The names of the elements of a class of named tuples, also of Python's own such as `os.stat_result`; empty for
    any other."""
    for name in ("_fields", "__match_args__"):
        declared = _declared(kind, name)
        if type(declared) is tuple and declared and all(type(field) is str for field in declared):
            return declared
    return ()
