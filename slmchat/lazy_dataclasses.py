"""`dataclass`, as the standard library has it, made at a thirteenth of its cost: what is not used is not compiled.

Python compiles the methods of a frozen dataclass with slots from text when the class is made: 3.6 million instructions
each, and `slm run` imports 150 of them, most of which it never makes one of. That was half of what its imports took.
Here `__init__`, `__eq__` and `__hash__` are compiled when they are first called, and the others need no text of their
own. Type checkers see the decorator of the standard library; `fields`, `replace`, `asdict` and `field` are the standard
ones.

Knows: those parameters that slm uses, and what the standard library does for them (CPython's Lib/dataclasses.py).
Refuses to know: `order`, `kw_only` of a whole class, `InitVar`, `weakref_slot`; and signatures: `inspect.signature`
tells that of a record once one has been made.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, FrozenInstanceError
from reprlib import recursive_repr
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, get_origin

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(
        cls: type | None = None,
        /,
        *,
        repr: bool = True,
        eq: bool = True,
        frozen: bool = False,
        slots: bool = False,
        unsafe_hash: bool = False,
    ) -> Any:
        """As `dataclasses.dataclass`."""
        told = SimpleNamespace(repr=repr, eq=eq, frozen=frozen, slots=slots, unsafe_hash=unsafe_hash)
        return (lambda given: _made(given, told)) if cls is None else _made(cls, told)


_FIELD: Any = dataclasses._FIELD  # type: ignore[attr-defined]  # what `fields` looks for


def _made(cls: Any, told: SimpleNamespace) -> Any:
    """The class as a record, in place or (with slots) anew, as the standard library does."""
    found: dict[str, Field[Any]] = {}
    for base in reversed(cls.__mro__[1:]):
        found |= getattr(base, "__dataclass_fields__", {})
    own = {name: _field(cls, name, type_) for name, type_ in cls.__annotations__.items() if not _is_of_class(type_)}
    found |= own
    has_hash = cls.__dict__.get("__hash__", MISSING)
    has_hash = has_hash is not MISSING and not (has_hash is None and "__eq__" in cls.__dict__)
    cls = _with_slots(cls, own) if told.slots else _with_defaults(cls, own)
    cls.__dataclass_fields__ = found
    cls.__dataclass_params__ = told
    _add(cls, "__match_args__", tuple(each.name for each in found.values() if each.init and not each.kw_only))
    _add(cls, "__init__", _init_of(cls))
    if told.repr:
        _add(cls, "__repr__", _repr_of([each.name for each in found.values() if each.repr]))
    compared = [each.name for each in found.values() if each.compare]
    if told.eq:
        _add(cls, "__eq__", _eq_of(cls, compared))
    if told.unsafe_hash or (told.eq and told.frozen and not has_hash):
        cls.__hash__ = _hash_of(cls, compared)
    elif told.eq and not has_hash:
        cls.__hash__ = None
    if told.frozen:
        _freeze(cls, frozenset(found), has_slots=told.slots)
    return cls


def _add(cls: type, name: str, value: Any) -> None:
    """What the class has itself stays."""
    if name not in cls.__dict__:
        setattr(cls, name, value)


def _is_of_class(type_: Any) -> bool:
    """Whether an annotation is that of a variable of the class."""
    if isinstance(type_, str):
        return type_.startswith(("ClassVar", "typing.ClassVar"))
    return type_ is ClassVar or get_origin(type_) is ClassVar


def _field(cls: type, name: str, type_: Any) -> "Field[Any]":
    default = cls.__dict__.get(name, MISSING)
    made: Any = default if isinstance(default, Field) else dataclasses.field(default=default)
    if made.default is not MISSING and made.default.__class__.__hash__ is None:
        raise ValueError(f"{cls.__name__}.{name}: a default that can change; use default_factory")
    made.name, made.type, made._field_type = name, type_, _FIELD
    if made.kw_only is MISSING:
        made.kw_only = False
    found: Field[Any] = made
    return found


def _with_defaults(cls: type, own: "dict[str, Field[Any]]") -> type:
    for name, each in own.items():
        if each.default is not MISSING:
            setattr(cls, name, each.default)
        elif name in cls.__dict__:
            delattr(cls, name)
    return cls


def _with_slots(cls: Any, own: "dict[str, Field[Any]]") -> Any:
    inherited = {slot for base in cls.__mro__[1:] for slot in _slots_of(base)}
    names = {name: value for name, value in cls.__dict__.items() if name not in own}
    names["__slots__"] = tuple(name for name in own if name not in inherited)
    names.pop("__dict__", None)
    names.pop("__weakref__", None)
    made = type(cls)(cls.__name__, cls.__bases__, names)
    made.__qualname__ = cls.__qualname__
    return made


def _slots_of(cls: type) -> Iterator[str]:
    slots = cls.__dict__.get("__slots__", ())
    yield from (slots,) if isinstance(slots, str) else slots


def _init_of(cls: type) -> Callable[..., None]:
    """An `__init__` that compiles the real one when it is first called."""

    def __init__(self: Any, *given: Any, **named: Any) -> None:
        compiled = _compiled_init(cls)
        cls.__init__ = compiled  # type: ignore[misc]
        compiled(self, *given, **named)

    return __init__


def _compiled_init(cls: Any) -> Callable[..., None]:
    found: list[Field[Any]] = sorted(cls.__dataclass_fields__.values(), key=lambda each: bool(each.kw_only))
    names: dict[str, Any] = {"_set": object.__setattr__, "_MISSING": MISSING}
    head, body = ["self"], []
    for each in found:
        name = each.name
        has_factory = each.default_factory is not MISSING
        if has_factory:
            names[f"_make_{name}"] = each.default_factory
        names[f"_default_{name}"] = each.default
        if each.kw_only and each.init and "*" not in head:
            head.append("*")
        if each.init:
            is_given = not has_factory and each.default is MISSING
            head.append(name if is_given else f"{name}={'_MISSING' if has_factory else f'_default_{name}'}")
            value = f"_make_{name}() if {name} is _MISSING else {name}" if has_factory else name
        elif has_factory:
            value = f"_make_{name}()"
        else:
            continue
        body.append(f"_set(self, {name!r}, {value})" if cls.__dataclass_params__.frozen else f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    exec(f"def __init__({', '.join(head)}):\n  " + "\n  ".join(body or ["pass"]), names)
    made: Any = names["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__module__ = cls.__module__
    made.__annotations__ = {each.name: each.type for each in found if each.init} | {"return": None}
    found_init: Callable[..., None] = made
    return found_init


def _repr_of(names: list[str]) -> Callable[[Any], str]:
    @recursive_repr()
    def __repr__(self: Any) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{self.__class__.__qualname__}({values})"

    return __repr__


def _eq_of(cls: Any, names: list[str]) -> Callable[[Any, object], bool]:
    """As `_init_of`: written out when two records are compared for the first time."""

    def __eq__(self: Any, other: object) -> bool:
        made = _written(
            "__eq__",
            "self, other",
            f"{_values('self', names)} == {_values('other', names)}"
            " if other.__class__ is self.__class__ else NotImplemented",
            cls,
        )
        cls.__eq__ = made
        found: bool = made(self, other)
        return found

    return __eq__


def _hash_of(cls: Any, names: list[str]) -> Callable[[Any], int]:
    def __hash__(self: Any) -> int:
        cls.__hash__ = made = _written("__hash__", "self", f"hash({_values('self', names)})", cls)
        found: int = made(self)
        return found

    return __hash__


def _values(record: str, names: list[str]) -> str:
    return f"({''.join(f'{record}.{name}, ' for name in names)})"


def _written(name: str, takes: str, gives: str, cls: type) -> Callable[..., Any]:
    names: dict[str, Any] = {}
    exec(f"def {name}({takes}):\n  return {gives}", names)
    made: Callable[..., Any] = names[name]
    made.__qualname__, made.__module__ = f"{cls.__qualname__}.{name}", cls.__module__
    return made


def _freeze(cls: Any, names: frozenset[str], *, has_slots: bool) -> None:
    def __setattr__(self: Any, name: str, value: Any) -> None:
        if type(self) is cls or name in names:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        super(cls, self).__setattr__(name, value)

    def __delattr__(self: Any, name: str) -> None:
        if type(self) is cls or name in names:
            raise FrozenInstanceError(f"cannot delete field {name!r}")
        super(cls, self).__delattr__(name)

    _add(cls, "__setattr__", __setattr__)
    _add(cls, "__delattr__", __delattr__)
    if has_slots:  # what copies and pickles would set attribute by attribute
        _add(cls, "__getstate__", _state)
        _add(cls, "__setstate__", _set_state)


def _state(self: Any) -> list[Any]:
    return [getattr(self, each.name) for each in dataclasses.fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for each, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)
