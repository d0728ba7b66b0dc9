"""Passes as text: `fuse-attention{min_heads=1}` and back.

A pass is a frozen dataclass; its fields are its options. Only options that differ from their default are printed, so
the text of a pass is the shortest that parses back to it.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from enginery.errors import UsageError

P = TypeVar("P", covariant=True)

_SPEC = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]*)\s*(?:\{(?P<options>.*)\})?", re.DOTALL)


class _Named(typing.Protocol):
    name: ClassVar[str]


def parse_pass(text: str, registry: Mapping[str, type[P]]) -> P:
    """The pass that `text` describes.

    Raises:
        UsageError: the text is malformed, the name is not in `registry`, or an option is unknown or of another type.
    """
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"Given pass {text!r}; expected `name` or `name{{option=value,...}}`.")
    name = match["name"]
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"There is no pass {name!r}; available: {', '.join(sorted(registry))}.{hint}")
    kind = registry[name]
    hints = typing.get_type_hints(kind)
    options = {field.name: hints[field.name] for field in dataclasses.fields(typing.cast("Any", kind)) if field.init}
    values: dict[str, Any] = {}
    for item in _split(match["options"] or "", text):
        key, given, value = (part.strip() for part in item.partition("="))
        if not given or key not in options:
            raise UsageError(
                f"Pass {name!r} was given {item.strip()!r}; its options are "
                f"{', '.join(f'{key}={type_name(hint)}' for key, hint in options.items()) or 'none'}."
            )
        if key in values:
            raise UsageError(f"Pass {name!r} was given option {key!r} twice. Leave one out.")
        values[key] = _value(value, options[key], f"option {key!r} of pass {name!r}")
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"Pass {name!r} cannot be made from {text!r}: {error}.") from error


def split_passes(text: str) -> tuple[str, ...]:
    """The texts of a comma-separated list of passes, in order: `fold-constants{limit=4096},fuse-gelu`.

    Raises:
        UsageError: the list is empty, or a bracket or quote is not closed.
    """
    found = tuple(each.strip() for each in _split(text, text))
    if not found:
        raise UsageError("The list of passes is empty. Give names between commas, such as `fold-constants,fuse-gelu`.")
    return found


def format_pass(given: object) -> str:
    """The text that `parse_pass` reads back as an equal pass."""
    shown: list[str] = []
    for field in dataclasses.fields(typing.cast("Any", given)):
        value = getattr(given, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if field.init and value != default:
            shown.append(f"{field.name}={value_text(value)}")
    name = typing.cast("_Named", given).name
    return f"{name}{{{','.join(shown)}}}" if shown else name


def _split(options: str, text: str) -> list[str]:
    """Cut at commas outside brackets and quotes."""
    items: list[str] = []
    depth, quoted, escaped, start = 0, False, False, 0
    for index, char in enumerate(options):
        quoted ^= char == '"' and not escaped
        escaped = quoted and char == "\\" and not escaped
        depth += 0 if quoted else (char in "[{") - (char in "]}")
        if char == "," and depth == 0 and not quoted:
            items.append(options[start:index])
            start = index + 1
    if depth or quoted:
        raise UsageError(f"Given {text!r}: a bracket or a quote is not closed.")
    items.append(options[start:])
    return [item for item in items if item.strip()]


def _value(text: str, hint: Any, what: str) -> Any:
    """Read `text` as a value of the annotated type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return _value(text, option, what)
            except UsageError:
                continue
    elif hint is type(None) and text in {"none", "None"}:
        return None
    elif origin is typing.Literal and text.strip('"') in map(str, arguments):
        return next(each for each in arguments if str(each) == text.strip('"'))
    elif origin is tuple and text.startswith("[") and text.endswith("]"):
        return tuple(_value(item.strip(), arguments[0], what) for item in _split(text[1:-1], text))
    elif hint is bool and text in {"true", "false"}:
        return text == "true"
    elif hint is str:
        return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text
    elif hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            pass
    raise UsageError(f"Given {text!r} for {what}; expected {type_name(hint)}.")


def value_text(value: Any) -> str:
    """The value of an option as `parse_pass` reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{','.join(map(value_text, typing.cast('tuple[Any, ...]', value)))}]"
    if isinstance(value, str) and not re.fullmatch(r"[\w.*+/:-]+", value):
        return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'
    return "none" if value is None else str(value)


def type_name(hint: Any) -> str:
    """What an option of the annotated type may be, such as `int|none`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "|".join(map(str, arguments))
    if origin is tuple:
        return f"[{type_name(arguments[0])},...]"
    if origin in (typing.Union, types.UnionType):
        return "|".join(map(type_name, arguments))
    return "none" if hint is type(None) else {bool: "true|false"}.get(hint, getattr(hint, "__name__", str(hint)))
