"""Templates → pages of one HTML file that needs no network. Every text is escaped; style and script are inlined."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_SHARED = Path(__file__).parent


def render_page(folder: Path, template: str, **facts: Any) -> str:
    """Fill a template.

    Beside what Jinja offers, a template may use

    * `inline("theme.css", "page.js")`: the text of files of the same folder or of this one, as it is;
    * the filter `sha256`: base64 of a script's digest, by which a content security policy allows it;
    * the filter `base64`: bytes as text, for `data:` addresses;
    * `tojson`: data for a script; no name in it can end the element.

    Args:
        folder: Contains the template and the files that it includes or inlines.
        template: File name.
        **facts: What the template names. Strings are escaped where they are shown.

    Returns:
        The page.

    Raises:
        jinja2.UndefinedError: If the template names something that is not among the facts.
    """
    loader = FileSystemLoader([folder, _SHARED])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {
        "ensure_ascii": False, "separators": (",", ":"), "allow_nan": False,
    }  # fmt: skip
    environment.globals["inline"] = lambda *names: Markup(
        "\n".join(loader.get_source(environment, name)[0].strip() for name in names)
    )
    environment.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    return environment.get_template(template).render(**facts)
