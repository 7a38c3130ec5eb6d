"""A run's ranked set as a data set of the hub: its files, and a card made from its figures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from rankdistill.errors import UserError
from rankdistill.export.hub import hub_name, license_of
from rankdistill.export.place import in_making
from rankdistill.fields import amounts
from rankdistill.report import read_metrics
from rankdistill.report.markdown_parts import figures, inline, table
from rankdistill.report.ranking import (
    WRITERS,
    agreement_rows,
    ranking_cautions,
    ranking_labels,
    ranking_rows,
    writer_labels,
    writer_rows,
)
from rankdistill.stages.composed import read_config
from rankdistill.store.written import check_run

EXPORT = "ranked_export"
"""Folder of a run that its ranked set is written to."""
CARD = "README.md"


def export_ranked(run: Path, to: Path, name: str, license: str | None) -> Path:
    """Writes the ranked set of a finished run and its card to a new folder.

    Args:
        name: Of the data set, for the card's title.
        license: The hub's name of the one that the set is given under; None: not known.

    Raises:
        UserError: no finished run with a ranked set, or the folder holds something or cannot be
            written.
    """
    check_run(run, "ranked")
    if not list((run / "ranked").glob("*.parquet")):
        raise UserError(f"There is no ranked set in '{run}': give a run that ranks.")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"'{to}' is not empty: give another --to, or remove it.")
    metrics, config = read_metrics(run), read_config(run, "student", "teacher")
    card = data_card(metrics, config, name, license)
    with in_making(to) as folder:
        for file in sorted((run / "ranked").glob("*.parquet")):
            shutil.copyfile(file, folder / file.name)
        card.save(folder / CARD)
    return to


def data_card(
    metrics: Mapping[str, Any], config: Mapping[str, Any], name: str, license: str | None
) -> DatasetCard:
    """What the set is: prompts, writers, who ranked it and how far that can be trusted, license.

    Models are called by their hub names; folders of this machine by their last part.
    """
    data = DatasetCardData(
        license=license,
        task_categories=["text-generation"],
        tags=["preference", "ranking", "rankdistill"],
    )
    ranking = _published(metrics)
    parts = [
        f"# {inline(name)}",
        f"Ranked responses: each row is a prompt with its responses, best first, as "
        f"{inline('rankdistill')} trains on them. `rank` 0 is the best, ties share a rank; "
        "`scores` has the value of every scorer, `source` who wrote a response.",
        _made(ranking, config),
        *figures(WRITERS, writer_labels(ranking), writer_rows(ranking)),
    ]
    if ranking.get("ranking"):
        parts += figures("Who ranked them", ranking_labels(ranking), ranking_rows(ranking))
        if pairs := agreement_rows(ranking):
            rows = [list(map(inline, row)) for row in pairs]
            parts.append(table(["agreement of", "Kendall's tau", "prompts"], rows))
        parts.append("\n".join(f"- {inline(said)}" for _, said in ranking_cautions(ranking)))
    parts += ["## License", _license(config, license)]
    body = "\n\n".join(part for part in parts if part)
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n", ignore_metadata_errors=True)


def _made(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Where the prompts are from, how many there are, and what made the set."""
    given = (config.get("rank") or {}).get("path")
    path = given or config["prompts"]["path"]
    sets = ", ".join(_named(name) for name in amounts("prompts.path", path))
    counts = [stage["counts"] for stage in metrics["stages"] if stage["stage"] == "rank"]
    last = counts[-1] if counts else {}
    number = f"{last['ranked']:,} ranked prompts" if "ranked" in last else "ranked prompts"
    kind = "an existing ranked set" if given else "prompts"
    return (
        f"{number} of {inline(sets)} ({kind}); made by rankdistill "
        f"{metrics['versions'].get('rankdistill', '')}, recipe {inline(metrics['recipe'])}, on "
        f"{metrics['date'][:10]}. What was set aside, and why: "
        + inline(", ".join(f"{n} {v}" for n, v in last.items() if isinstance(v, int)) or "nothing")
        + "."
    )


def _license(config: Mapping[str, Any], license: str | None) -> str:
    """What is known of the licenses of those who wrote and judged; nothing is guessed."""
    student = config["student"].get("path") or config["teacher"]["path"]
    rows = []
    for role, path in (("student", student), ("teacher", config["teacher"]["path"])):
        known = license_of(path).identifier or "not known here"
        rows.append([role, inline(_named(path)), inline(known)])
    served = ((config.get("sample") or {}).get("endpoint") or {}).get("model")
    if served:
        rows.append(["served teacher", inline(served), "see who serves it"])
    said = f"{license}." if license else "Not stated. Those of prompts and of the models apply:"
    return f"{said}\n\n{table(['who', 'model', 'license'], rows)}"


def _published(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The figures with writers by the names that a stranger may read."""
    ranking = dict(metrics.get("ranking") or {})
    found = ranking.get("writers")
    if found:
        writers = {_named(name): of for name, of in found["writers"].items()}
        ranking["writers"] = {**found, "writers": writers}
    return {**metrics, "ranking": ranking}


def _named(path: str) -> str:
    return hub_name(path) or Path(path).name
