"""Looking at objects without running any code of theirs: no attribute lookup, property, ``repr`` or ``isinstance``.

Pure. A class is asked through the descriptors of `type`, an instance through those with which CPython gives it a
``__dict__`` or slots; classes of other libraries are recognized by identity with what is in `sys.modules`.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from typing import Any, Final

MAX_TYPE: Final = 100
"""Characters kept of a type's name, all ASCII."""
HIDDEN: Final = object()
"""Stands for the value of a field that says ``repr=False``."""
_MISSING: Final = object()

mro = type.__dict__["__mro__"].__get__
"""The method resolution order of a class, also of one whose metaclass says otherwise, as the next ones."""
_namespace = type.__dict__["__dict__"].__get__
_module = type.__dict__["__module__"].__get__
_qualified_name = type.__dict__["__qualname__"].__get__
class_name = type.__dict__["__name__"].__get__

_DICT_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType)


def inherits(kind: type, base: type | None) -> bool:
    """Whether ``kind`` is a subclass of ``base``, by identity."""
    for one in mro(kind):  # noqa: SIM110 - twice as fast as any()
        if one is base:
            return True
    return False


def type_name(kind: type) -> str:
    """``module.Name`` of a class, without the module for built-in ones."""
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
    """The instance's ``__dict__``, empty where it has none."""
    for base in mro(type(value)):
        found = _namespace(base).get("__dict__")
        if type(found) in _DICT_DESCRIPTORS and base is not type:
            own = found.__get__(value)
            return own if inherits(type(own), dict) else {}
    return {}


def slot(value: Any, name: str, otherwise: Any = None) -> Any:
    """What the instance keeps in the slot ``name``."""
    for base in mro(type(value)):
        found = _namespace(base).get(name)
        if type(found) is types.MemberDescriptorType:
            try:
                return found.__get__(value)
            except AttributeError:
                return otherwise
    return otherwise


def known(module: str, name: str) -> Any:
    """A module's attribute, None where that module is not loaded. Imports nothing."""
    loaded = sys.modules.get(module)
    return None if loaded is None else dict.get(instance_dict(loaded), name)


def fields(value: Any, *, hide: bool) -> list[tuple[str, Any]] | None:
    """Names and values of what a dataclass, attrs or pydantic object keeps; None for any other object. Fields without
    a value are left out; with ``hide``, the value of one that says ``repr=False`` is `HIDDEN`."""
    kind = type(value)
    model = known("pydantic.main", "BaseModel")
    if model is not None and inherits(kind, model):
        declared = _declared(kind, "__pydantic_fields__") or _declared(kind, "model_fields")
        return _of_pydantic(value, declared if hide else None)
    model = known("pydantic.v1.main", "BaseModel")
    if model is not None and inherits(kind, model):
        return [(name, one) for name, one in dict.items(instance_dict(value)) if type(name) is str]
    declared = _declared(kind, "__dataclass_fields__")
    if type(declared) is dict:
        hidden = {name: type(one) is dataclasses.Field and one.repr is False for name, one in declared.items()}
    else:
        attribute, attributes = known("attr", "Attribute"), _declared(kind, "__attrs_attrs__")
        if attribute is None or attributes is None or not inherits(type(attributes), tuple):
            return None
        hidden = {one.name: one.repr is False for one in tuple.__iter__(attributes) if type(one) is attribute}
    own = instance_dict(value)
    found = []
    for name, is_hidden in hidden.items():
        one = dict.get(own, name, _MISSING)
        if one is _MISSING:
            one = slot(value, name, _MISSING)
        if one is not _MISSING:
            found.append((name, HIDDEN if hide and is_hidden else one))
    return found


def _of_pydantic(value: Any, declared: Any) -> list[tuple[str, Any]]:
    field_info = known("pydantic.fields", "FieldInfo")
    declared = declared if type(declared) is dict else {}
    hidden = {name for name, one in declared.items() if type(one) is field_info and one.repr is False}
    extra = slot(value, "__pydantic_extra__")
    return [
        (name, HIDDEN if name in hidden else one)
        for part in (instance_dict(value), extra if type(extra) is dict else {})
        for name, one in dict.items(part)
        if type(name) is str
    ]


def _declared(kind: type, name: str) -> Any:
    for base in mro(kind):
        if (found := _namespace(base).get(name)) is not None:
            return found
    return None
