"""Makes a self-contained HTML page out of one of the templates in rlaif/view/templates.

Model text is untrusted: Jinja escapes every value, and every string passes `visible` first, so that nothing in a
page is hidden or turned around; the page's own policy forbids scripts and any address.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rlaif.core.terminal import visible
from rlaif.view import text


def render(template: str, view: Mapping[str, object]) -> str:
    """The page that one of the templates makes of `view`: every value escaped, nothing hidden in it."""
    return _environment().get_template(template).render(view)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("rlaif.view", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": text.number,
        "interval": text.interval,
        "percent": text.percent,
        "percents": text.percents,
        "duration": text.duration,
        "beginning": text.beginning,
        "shown": text.shown,
        "sentence": text.sentence,
    }
    environment.tests |= {"long": text.is_long, "known": text.is_known}
    environment.globals |= {"common_decimals": text.common_decimals}
    return environment


def _finalize(value: Any) -> Any:
    """What stands on the page for a value: strings with nothing invisible, numbers rounded, None named."""
    if value is None or isinstance(value, float):
        return text.number(value)
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value)
    return value
