"""Pages that need nothing else, from templates beside the code: pictures inside, no scripts, no links outside."""

from __future__ import annotations

from importlib.resources import files

import jinja2


def render(template: str, **values: object) -> str:
    """Fill in a template, named as package/file; others may be included by the same kind of name."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": _percent, "spoken": _spoken}
    return environment.get_template(template).render(values)


def _source(template: str) -> str:
    package, _, file = template.partition("/")
    return files(package).joinpath(file).read_text("utf-8")


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def _spoken(name: str) -> str:
    return name.replace("_", " ")
