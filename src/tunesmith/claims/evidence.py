"""The page of evidence in Markdown: the arena's baselines, their learning rates, and every claim with its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..comparing.wording import called, cost, pair, score
from .claim import VERDICTS, Claim, as_figures
from .wording import HEADINGS, OPEN, cost_of, expectations, interval_of, machine_of, number, row, value_of

Results = Mapping[str, Mapping[str, Any] | None]


def evidence_page(
    comparisons: Mapping[str, Mapping[str, Any]], rates: Mapping[str, Any], claims: Mapping[str, Claim], results: Results,
    plots: str = "evidence",
) -> str:  # fmt: skip
    """The whole page.

    Args:
        comparisons: arena task -> ``Comparison.to_dict`` of the baselines.
        rates: what ``comparing/rates.json`` holds.
        claims: by stem.
        results: stem -> stored result, or None.
        plots: folder of the plots, ``STEM.svg``, as the page links to it.
    """
    parts = [
        "# Evidence\n\nWritten by `make figures` from the store of results and the files of the claims.",
        f"## The arena's baselines\n\n{arena_table(comparisons)}",
        f"## Learning rates\n\n{rates_text(rates)}",
        f"## Claims\n\n{counts(claims, results)}\n\n{claims_markdown(claims, results)}",
        *(section(claim, results.get(stem), f"{plots}/{stem}.svg") for stem, claim in claims.items()),
    ]
    return "\n\n".join(parts).rstrip() + "\n"


def cells(*values: str) -> str:
    """A line of a table; what would end a cell is escaped."""
    return "| " + " | ".join(v.replace("|", "\\|").replace("\n", " ") for v in values) + " |"


def arena_table(comparisons: Mapping[str, Mapping[str, Any]]) -> str:
    """Technique by task: mean over the seeds with interval, against the base, and costs."""
    if not comparisons:
        return "No task has been run with every seed yet: `tunesmith arena run`."
    headings = (
        "task",
        "recipe",
        "figure",
        "mean (interval)",
        "against the base",
        "trained",
        "memory",
        "training",
        "operations",
        "commit",
    )
    lines = [cells(*headings), "|---" * len(headings) + "|"]
    for task, found in comparisons.items():
        name, before = found["metric"], found["before"]
        lines.append(cells(task, before["name"], name.replace("_", " "), score(name, before["score"]), *[""] * 6))
        for recipe in found["recipes"]:
            against = pair(found, recipe["name"], before["name"])
            costs = (cost(k, recipe["cost"].get(k)) for k in ("trainable", "peak_bytes", "training_seconds", "flops"))
            mean, said = score(name, recipe["score"]), called(name, against) if against else ""
            commits = ", ".join(recipe.get("commits", ()))
            lines.append(cells(task, recipe["name"], name.replace("_", " "), mean, said, *costs, commits))
    return "\n".join([*lines, "", *(_arena_notes(comparisons))])


def _arena_notes(comparisons: Mapping[str, Mapping[str, Any]]) -> list[str]:
    first = next(iter(comparisons.values()))
    about = first["environment"]
    packages = ", ".join(f"{k} {v}" for k, v in about.get("packages", {}).items() if k in ("torch", "transformers"))
    power = [f"- {task}: {found['power']}" for task, found in comparisons.items()]
    seeds, level = ", ".join(map(str, first["seeds"])), 100 * first["level"]
    return [
        f"{len(first['seeds'])} seeds ({seeds}), {level:g} % intervals over seeds and held-out rows, p-values corrected in a "
        "task; costs are medians over the seeds. The engine has become faster: times compare between rows of about one commit. "
        f"{machine_of(first)}, Python {about.get('python')}, {packages}.",
        "", "What these seeds can see:", "", *power,
    ]  # fmt: skip


def rates_text(rates: Mapping[str, Any]) -> str:
    """How the baselines' learning rates were tuned, and every trial."""
    headings = ("family", "technique", "chosen", "trials (rate: validation loss)")
    lines = [cells(*headings), "|---" * len(headings) + "|"]
    for family, chosen in rates["rates"].items():
        for technique, rate in chosen.items():
            own = [t for t in rates["trials"] if t[:2] == [family, technique]]
            tried = {t[2]: ", ".join(f"{x[3]} {x[4]:.3f}" for x in own if x[2] == t[2]) for t in own}
            said = "; ".join(f"{value:g}: {losses}" for value, losses in sorted(tried.items()))
            lines.append(cells(family, technique, f"{rate:g}", said))
    how = (
        "Three rates are tried for every baseline, and on the language model for what claims hold against them, on a seed that "
        "no comparison uses, by the loss of validation rows; a rate that wins at an end of its range gets one trial beyond it. "
        "The test rows are not looked at."
    )
    return "\n".join([how, "", *lines])


def verdict_of(claim: Claim, result: Mapping[str, Any] | None) -> str:
    """The stored verdict; without a result, that it is not testable or not run."""
    return row(claim, result)[2]


def counts(claims: Mapping[str, Claim], results: Results) -> str:
    """How many claims came to which verdict."""
    found = [verdict_of(claim, results.get(stem)) for stem, claim in claims.items()]
    said = [f"{found.count(v)} {v}" for v in (*VERDICTS, OPEN) if v in found]
    return f"{len(found)} claims: {', '.join(said)}." if found else "No claim has been written yet."


def claims_markdown(claims: Mapping[str, Claim], results: Results) -> str:
    """The table of claims."""
    lines = [cells(*HEADINGS), "|---" * len(HEADINGS) + "|"]
    return "\n".join([*lines, *(cells(*row(claim, results.get(stem))) for stem, claim in claims.items())])


def readme_block(claims: Mapping[str, Claim], results: Results) -> str:
    """The short table of the README: claim, verdict, main figure; those not run yet are counted only."""
    shown = {
        stem: row(claim, found) for stem, claim in claims.items() if (found := results.get(stem)) or claim.not_testable
    }
    lines = [cells("claim", "verdict", "figure", "interval"), "|---|---|---|---|"]
    lines += [cells(f"{i} {name}", verdict, figure, sure) for i, name, verdict, figure, sure, *_ in shown.values()]
    return "\n".join([counts(claims, results), *(["", *lines] if shown else [])])


def section(claim: Claim, result: Mapping[str, Any] | None, plot: str) -> str:
    """One claim: sentence, setting, distance, figures, expectations, verdict and plot."""
    parts = [
        f"### {claim.id} {claim.name}", f"{claim.paper}", f"**Claim.** {claim.claim.strip()}",
        f"**Setting.** {claim.setting.strip()}", f"**Distance.** {claim.distance.strip()}",
    ]  # fmt: skip
    parts += [f"**Tried.** {claim.tried.strip()}"] if claim.tried else []
    parts += [f"**Not testable here.** {claim.not_testable.strip()}"] if claim.not_testable else []
    parts.append(f"**Verdict: {verdict_of(claim, result)}.**")
    return "\n\n".join([*parts, *(_found(claim, result, plot) if result is not None and result["figures"] else [])])


def _found(claim: Claim, result: Mapping[str, Any], plot: str) -> list[str]:
    expected = [f"- {text}: {said}" for text, said in expectations(claim, result)]
    lines = [cells("figure", "value", "interval", "every one", "what it is"), "|---|---|---|---|---|"]
    for name, figure in as_figures(result["figures"]).items():
        each = ", ".join(number(v, figure.unit) for v in figure.values)
        lines.append(cells(name, value_of(figure), interval_of(figure), each, figure.about))
    commits = ", ".join(result["commits"]) or "unknown"
    where = f"{cost_of(result)}; {_seeds(result['seeds'])}; {machine_of(result)}; commit {commits}; {result['date']}."
    notes = [f"Note: {note}" for note in result["notes"]]
    return [
        "\n".join(["Expected:", "", *expected]),
        "\n".join(lines),
        f"![Plot of {claim.name}]({plot})",
        *notes,
        where,
    ]


def _seeds(seeds: Sequence[int]) -> str:
    return f"seeds {', '.join(map(str, seeds))}"
