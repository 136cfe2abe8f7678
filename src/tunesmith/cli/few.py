"""What `tunesmith prompts` does beyond the library, and shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError
from ..recipe import Recipe


def prompts_here(recipe: Recipe, templates: int, words: int, out: Path | None, *, as_json: bool) -> Any:
    """Search a prompt, and give what was tried for the screen or as JSON; ``out`` gets the recipe with the best one.

    Raises:
        InputError: ``out`` is there already.
    """
    if out is not None and out.exists():
        raise InputError("is there already", where=out, fix="name another file")
    from ..run.events import listener
    from ..run.prompt_search import search
    from ..storage import atomic_file

    found = search(recipe, templates=templates, words=words, listen=listener("quiet" if as_json else "auto"))
    if out is not None:
        with atomic_file(out) as file:
            file.write(found.recipe.to_yaml())
    if as_json:
        return found.to_dict()
    from rich import box
    from rich.table import Table

    table = Table(title="accuracy on the few validation rows", box=box.SIMPLE, title_justify="left")
    for heading in ("template", "words", "accuracy, 95 %"):
        table.add_column(heading)
    for template, said, figure in found.tried:
        table.add_row(template, ", ".join(said.values()), f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})")
    return table
