"""Imports the Python callables that recipes name: factories, data and metrics.

Research code expects its own folder on `sys.path`, and often has packages called `models`, `data` or `utils`. So a
callable is imported as Python would import it for a script in that folder, with these differences:

1. Modules of other projects with the same names, loaded earlier by this process, are set aside first.
2. Modules stay importable while the process lives (a `forward` may import lazily), until `forget_projects`.
3. A file that changed since it was imported is imported again, with everything that was imported beside it.
4. No `__pycache__` is left in the project.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from enginery.errors import EngineryError, RecipeError

PROTECTED = frozenset(
    {"enginery", "google", "numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "torch", "transformers"}
)
"""Packages that this process cannot do without, even where a project has a module of that name."""


@dataclass(frozen=True)
class Reference:
    """`file.py:function` or `package.module:function`, as a recipe in `folder` says it."""

    text: str
    folder: Path
    module: str
    function: str

    @classmethod
    def parse(cls, text: str, folder: Path) -> Reference:
        """Split a reference.

        Raises:
            RecipeError: it has another form, or names a file that is not there.
        """
        module, _, function = text.rpartition(":")
        if not module or not function.isidentifier():
            raise RecipeError(f"{text!r} names no callable; expected `file.py:function` or `package.module:function`.")
        reference = cls(text, folder.resolve(), module, function)
        if reference.file is not None and not reference.file.is_file():
            raise RecipeError(f"{text!r}: there is no file {reference.file}. Paths are relative to the recipe.")
        return reference

    @property
    def file(self) -> Path | None:
        """The file, for the form `file.py:function`."""
        return (self.folder / self.module).resolve() if self.module.endswith(".py") else None

    @property
    def roots(self) -> tuple[Path, ...]:
        """Folders that go on `sys.path`, first one first."""
        own = self.file.parent if self.file is not None else self.folder
        return (own,) if own == self.folder else (own, self.folder)


@dataclass
class _Project:
    """One folder on `sys.path`: its modules as they were imported, and the foreign modules that it displaced."""

    root: Path
    stamps: dict[Path, tuple[int, int]] = field(default_factory=dict[Path, tuple[int, int]])
    displaced: dict[str, ModuleType] = field(default_factory=dict[str, ModuleType])


_projects: dict[Path, _Project] = {}


def import_callable(reference: Reference, fails: type[EngineryError]) -> Callable[..., Any]:
    """Import what a recipe names.

    Raises:
        fails: the module raised while it was imported (with its message and the line), or has no such callable.
    """
    with guarded(reference, fails, "importing it"):
        module = _import(reference)
    found = getattr(module, reference.function, None)
    if not callable(found):
        names = sorted(name for name, value in vars(module).items() if callable(value) and not name.startswith("_"))
        raise fails(f"{reference.text!r}: no callable {reference.function!r} there. It has: {', '.join(names[:20])}.")
    return found


@contextmanager
def guarded(reference: Reference, fails: type[EngineryError], action: str) -> Generator[None]:
    """Turn whatever the user's code raises, `SystemExit` included, into `fails` with its message and line."""
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit, MemoryError, EngineryError):
        raise
    except BaseException as error:
        text = f"{reference.text!r}: {action} raised {type(error).__name__}: {error}{_where(error, reference)}"
        raise fails(text) from error


def forget_projects() -> None:
    """Take every project off `sys.path` and out of `sys.modules`, and put back what they displaced."""
    for project in reversed(list(_projects.values())):
        _evict(project)
        while str(project.root) in sys.path:
            sys.path.remove(str(project.root))
        sys.modules.update(project.displaced)
    _projects.clear()


def _import(reference: Reference) -> ModuleType:
    for root in reversed(reference.roots):
        _activate(root)
    importlib.invalidate_caches()
    keep = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        module = _module_of(reference)
    finally:
        sys.dont_write_bytecode = keep
        for root in reference.roots:
            project = _projects[root]
            project.stamps = {path: _stamp(path) for path in _modules_under(root).values()}
    return module


def _module_of(reference: Reference) -> ModuleType:
    if reference.file is None:
        return importlib.import_module(reference.module)
    name = reference.file.stem
    if name.isidentifier() and name not in sys.stdlib_module_names and name not in PROTECTED:
        return importlib.import_module(name)
    # A name that `import` cannot say, or that belongs to another module: load the file itself.
    spec = importlib.util.spec_from_file_location(f"_enginery_source_{name}", reference.file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _activate(root: Path) -> None:
    """Put `root` first on `sys.path`, without stale modules of its own and without others' modules of those names."""
    project = _projects.setdefault(root, _Project(root))
    if any(_stamp(path) != stamp for path, stamp in project.stamps.items()):
        _evict(project)
    names = _top_level_names(root)
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        foreign = top in names and top not in PROTECTED and top not in sys.stdlib_module_names
        if foreign and not _is_under(module, root):
            del sys.modules[name]
            if not any(_is_under(module, other) for other in _projects):
                project.displaced.setdefault(name, module)
    if str(root) in sys.path:
        sys.path.remove(str(root))
    sys.path.insert(0, str(root))


def _evict(project: _Project) -> None:
    for name in _modules_under(project.root):
        sys.modules.pop(name, None)
    project.stamps = {}


def _top_level_names(root: Path) -> set[str]:
    files = {path.stem for path in root.glob("*.py")}
    folders = {path.name for path in root.iterdir() if path.is_dir() and path.name.isidentifier()}
    return files | {name for name in folders if next((root / name).glob("*.py"), None) is not None}


def _modules_under(root: Path) -> dict[str, Path]:
    """The imported modules whose file lies under `root`, but for our own and those of an environment inside it."""
    found: dict[str, Path] = {}
    for name, module in list(sys.modules.items()):
        path = _file_of(module)
        if path is not None and name.partition(".")[0] != "enginery" and _is_under(module, root):
            found[name] = path
    return found


def _is_under(module: ModuleType, root: Path) -> bool:
    path = _file_of(module)
    if path is None or not path.is_relative_to(root):
        return False
    return "site-packages" not in path.relative_to(root).parts


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if isinstance(file, str) else None


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def _where(error: BaseException, reference: Reference) -> str:
    """The last line of the project's own code that the error passed through."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if any(Path(f.filename).is_relative_to(root) for root in reference.roots)]
    ours = [f for f in own if "site-packages" not in f.filename]
    frame = (ours or [f for f in frames if f.filename != __file__] or [None])[-1]
    return "" if frame is None else f" ({Path(frame.filename).name}, line {frame.lineno}: {frame.line})"


def call(
    function: Callable[..., Any], reference: Reference, options: Mapping[str, Any], fails: type[EngineryError]
) -> Any:
    """Call a recipe's callable with its options.

    Raises:
        RecipeError: it does not take these options.
        fails: it raised.
    """
    check_options(function, reference, options)
    with guarded(reference, fails, "calling it"):
        return function(**options)


def check_options(function: Callable[..., Any], reference: Reference, options: Mapping[str, Any]) -> None:
    """Check that a callable takes exactly these keyword arguments.

    Raises:
        RecipeError: it does not; the message shows its signature.
    """
    import inspect

    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some callables written in C have none
    try:
        signature.bind(**options)
    except TypeError as error:
        raise RecipeError(
            f"{reference.text!r} takes {signature}, and `options` give {sorted(options) or 'nothing'}: {error}."
        ) from error
