"""Pages that need nothing but themselves: one style, no script, and a policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from enginery.errors import MissingDependencyError
from enginery.pipeline.bundle.manifest import Verdict

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES: Final = Path(__file__).parent / "templates"
WORDS: Final = {
    Verdict.PASSED: "passed",
    Verdict.REFUSED: "refused",
    Verdict.ALLOWED: "allowed",
    Verdict.DEFERRED: "deferred",
    Verdict.SKIPPED: "n/a",
}


def render(template: str, **values: Any) -> str:
    """Render one of our templates. Every value is escaped; only our own style and figures are markup.

    Raises:
        MissingDependencyError: jinja2 is absent.
    """
    environment = _environment()
    from markupsafe import Markup

    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    page = environment.get_template(template)
    return page.render(style=Markup(style), policy=policy, **values)  # noqa: S704 (our own file)


def _environment() -> Environment:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise MissingDependencyError(
            "A report as a web page needs jinja2. Install it: pip install 'enginery[build]'. report.md says the same."
        ) from error
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = cast("dict[str, Any]", environment.filters)
    filters.update(number=_number, verdict=_word, counted=_counted)
    return environment


def _number(value: float | None, form: str = "{:.3g}") -> str:
    return "" if value is None else form.format(value)


def _word(verdict: Verdict) -> str:
    return WORDS[verdict]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
