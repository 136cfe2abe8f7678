"""Pages that need nothing else: templates with the project's style and parts, every value escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SHARED = Path(__file__).parent / "templates"
"""``style.css`` and ``parts.html``, which every page may include."""


def render(template: Path, **values: Any) -> str:
    """A template of any folder with these values."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, SHARED]), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template.name).render(**values)
