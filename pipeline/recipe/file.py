"""Reads recipe files: YAML in, `Recipe` out, or an error that names the line, the key and what is allowed."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ValidationError

import enginery.models
from enginery.errors import RecipeError
from enginery.pipeline.recipe.schema import Recipe

if typing.TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_BYTES = 1 << 20
"""A recipe is a page of text. Anything longer is another file."""

MAX_ALIASES = 8
"""Aliases of aliases multiply (a "billion laughs" file); a recipe needs few or none."""

MAX_DEPTH = 20


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe and where it came from. Relative paths in it are relative to `folder`."""

    recipe: Recipe
    folder: Path
    path: Path


def builtin_recipes() -> dict[str, Path]:
    """The recipes that ship with Enginery, by name."""
    found = sorted(Path(folder) for root in enginery.models.__path__ for folder in Path(root).glob("*/recipe.yaml"))
    return {path.parent.name: path for path in found}


def load_recipe(name_or_path: str) -> LoadedRecipe:
    """Load a built-in recipe by name, or a recipe file (or the `recipe.yaml` of a folder) by path.

    Raises:
        RecipeError: there is no such recipe, or it is not valid. The message names the line and the key.
    """
    path = find_recipe(name_or_path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"Cannot read the recipe {path}: {error.strerror}.") from error
    if len(raw) > MAX_BYTES:
        raise RecipeError(f"{path} has {len(raw)} bytes; a recipe has at most {MAX_BYTES}. Is it another file?")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text (byte {error.start}). Save the recipe as UTF-8.") from error
    return LoadedRecipe(parse_recipe(text, str(path)), path.parent.resolve(), path.resolve())


def find_recipe(name_or_path: str) -> Path:
    """The file that a name or path stands for. A bare name means a built-in recipe first."""
    builtin = builtin_recipes()
    if name_or_path in builtin:
        return builtin[name_or_path]
    path = Path(name_or_path)
    if path.is_dir():
        if not (path / "recipe.yaml").is_file():
            raise RecipeError(f"The folder {path} holds no recipe.yaml. Name the recipe file itself.")
        return path / "recipe.yaml"
    if path.is_file():
        return path
    close = difflib.get_close_matches(name_or_path, builtin, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise RecipeError(
        f"No recipe {name_or_path!r}: it is neither a built-in name ({', '.join(builtin) or 'none'}) nor a file.{hint}"
    )


def parse_recipe(text: str, where: str) -> Recipe:
    """Parse a recipe's text; `where` is the file's name for messages.

    Raises:
        RecipeError: the text is not YAML, or not a recipe; every fault is listed with its line.
    """
    try:
        aliases = sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader))
        if aliases > MAX_ALIASES:
            raise RecipeError(f"{where} has {aliases} YAML aliases; a recipe has at most {MAX_ALIASES}.")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise RecipeError(f"{where} is empty. `enginery schema` prints what a recipe may say.")
        faults = list(_yaml_faults(root))
        if faults:
            raise RecipeError(_message(where, faults))
        value = cast("object", yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: a recipe is a mapping of keys to values; given a {type(value).__name__}.")
    try:
        return Recipe.model_validate(value)
    except ValidationError as error:
        faults = [_explain(fault, root) for fault in error.errors(include_url=False)]
        raise RecipeError(_message(where, sorted(set(faults)))) from error


def _message(where: str, faults: Sequence[tuple[int, str]]) -> str:
    lines = [f"{where}, line {line}: {text}" for line, text in faults]
    return "\n".join([*lines, "`enginery schema` prints all that a recipe may say."])


def _yaml_faults(node: yaml.Node, active: tuple[int, ...] = ()) -> Iterator[tuple[int, str]]:
    """Yield what YAML accepts in silence and a recipe must not hold: a key given twice, endless nesting."""
    if id(node) in active:
        yield _line(node), "the value contains itself"
        return
    if len(active) > MAX_DEPTH:
        yield _line(node), f"values are nested deeper than {MAX_DEPTH} levels"
        return
    active = (*active, id(node))
    if isinstance(node, yaml.MappingNode):
        seen: dict[Hashable, int] = {}
        for key, value in node.value:
            if key.value in seen:
                yield _line(key), f"{key.value!r} is given twice (first on line {seen[key.value]})"
            seen[key.value] = _line(key)
            yield from _yaml_faults(value, active)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _yaml_faults(item, active)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


_WORDS = {
    "tuple_type": "Input should be a list, such as [a, b]",
    "dict_type": "Input should be a mapping of keys to values",
    "int_parsing": "Input should be a whole number",
    "int_from_float": "Input should be a whole number",
    "float_parsing": "Input should be a number",
    "bool_parsing": "Input should be true or false",
}
"""What pydantic says in words of Python."""


def _explain(fault: ErrorDetails, root: yaml.Node) -> tuple[int, str]:
    """Turn one pydantic error into (line, "key: what was given; what is allowed")."""
    path, node, line = _locate(fault["loc"], root)
    name = ".".join(path) or "recipe"
    if fault["type"] == "extra_forbidden":
        return line, f"unknown key `{name}`. {_allowed_keys(path)}"
    if fault["type"] == "missing":
        return line, f"`{name}` is missing."
    given = f" given {_short(fault['input'])};" if node is None or isinstance(node, yaml.ScalarNode) else ""
    text = _WORDS.get(fault["type"], fault["msg"].removeprefix("Value error, "))
    return line, f"`{name}`:{given} {text[:1].lower()}{text[1:]}."


def _locate(loc: tuple[int | str, ...], root: yaml.Node) -> tuple[list[str], yaml.Node | None, int]:
    """Follow pydantic's location through the YAML. Parts that name a union's branch are not in the file."""
    node: yaml.Node | None = root
    line = _line(root)
    path: list[str] = []
    for index, part in enumerate(loc):
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is not None:
                line, node = _line(found[0]), found[1]
                path.append(str(part))
            elif index == len(loc) - 1 and isinstance(part, str):
                path.append(part)
                node = None
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = cast("yaml.Node", node.value[part])
            line = _line(node)
            path.append(str(part))
    return path, node, line


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _allowed_keys(path: Sequence[str]) -> str:
    model = _model_at(Recipe, path[:-1])
    if model is None:
        return "Remove it."
    known = sorted(field.alias or name for name, field in model.model_fields.items())
    close = difflib.get_close_matches(path[-1], known, n=1)
    hint = f"Did you mean `{close[0]}`? " if close else ""
    return f"{hint}Allowed here: {', '.join(known)}."


def _model_at(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    """Find the pydantic model that describes the mapping at `path`."""
    annotation: Any = model
    for part in path:
        current = _first_model(annotation)
        if current is not None:
            fields = {field.alias or name: field for name, field in current.model_fields.items()}
            if part not in fields:
                return None
            annotation = fields[part].annotation
        else:
            inner = [arg for arg in _arguments(annotation) if _contains_model(arg)]
            annotation = inner[-1] if inner else None
    return _first_model(annotation)


def _arguments(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        return tuple(arg for branch in typing.get_args(annotation) for arg in typing.get_args(branch))
    return typing.get_args(annotation)


def _contains_model(annotation: Any) -> bool:
    return _first_model(annotation) is not None or any(_contains_model(arg) for arg in typing.get_args(annotation))


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        return next((m for arg in typing.get_args(annotation) if (m := _first_model(arg)) is not None), None)
    return None
