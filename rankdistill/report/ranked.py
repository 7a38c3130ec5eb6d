"""The part of the report on held-out rankings: figures, table rows and sentences.

Columns are the models, and the order that needs none: the longer response first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from rankdistill.evaluate.ranked import (
    RankedSet,
    by_log_ratio,
    by_prompt,
    by_sum,
    matched_pairs,
    pairs,
)
from rankdistill.report.table import (
    NOTHING,
    Cell,
    Row,
    direction,
    interval_cell,
    percent,
    points,
    share_percent,
)
from rankdistill.statistics import mean_interval, paired_difference

LONGER = "longer"
"""Key of the column for "the longer response first"."""
Metrics = Mapping[str, Any]
Shares = Mapping[str, float]
"""Pair accuracy by prompt id."""


def ranked_metrics(ranked: RankedSet | None, baseline: str, seed: int) -> dict[str, Any] | None:
    """The block `ranked_set` of `metrics.json`; every accuracy is a mean over prompts."""
    if ranked is None:
        return None
    rankings = ranked.rankings
    matched = partial(matched_pairs, length_match=ranked.length_match)
    lengths = [[float(n) for n in ranking.whole_tokens] for ranking in rankings]
    values = {LONGER: lengths, **ranked.mean_logps}
    everywhere = {name: by_prompt(rankings, v) for name, v in values.items()}
    equal = {name: by_prompt(rankings, v, matched) for name, v in values.items()}

    def model(name: str) -> dict[str, Any]:
        own = {} if name == LONGER else _other_orders(ranked, name, baseline, seed)
        before = None if name == baseline else baseline
        return {
            "label": "longer first" if name == LONGER else ranked.labels[name],
            "pair_accuracy": _mean(everywhere[name], seed),
            "pair_accuracy_difference": _difference(everywhere, name, before, seed),
            "against_longer": _difference(
                everywhere, name, LONGER if name != LONGER else None, seed
            ),
            "matched_accuracy": _mean(equal[name], seed),
            "matched_difference": _difference(equal, name, before, seed),
            "sum_accuracy": own.get("sum_accuracy"),
            "log_ratio_accuracy": own.get("log_ratio_accuracy"),
            "prompt_accuracy": dict(sorted(everywhere[name].items())),
        }

    responses = sum(len(ranking.ranks) for ranking in rankings)
    return {
        "name": ranked.name,
        "prompts": len(everywhere[LONGER]),
        "pairs": sum(len(pairs(ranking)) for ranking in rankings),
        "responses": responses,
        "cut_share": ranked.cut / responses if responses else None,
        "length_match": ranked.length_match,
        "matched_prompts": len(equal[LONGER]),
        "matched_pairs": sum(len(matched(ranking)) for ranking in rankings),
        "models": {name: model(name) for name in values},
    }


def ranked_rows(metrics: Metrics) -> list[Row]:
    """The rows of the table, one column per model of `ranked_set`."""
    block = metrics["ranked_set"]
    models = block["models"]
    words = {
        "baseline": models[metrics["baseline"]]["label"],
        "level": percent(metrics["statistics"]["interval_level"]),
        "match": percent(block["length_match"]),
        "matched": f"{block['matched_pairs']} pairs of {block['matched_prompts']} prompts",
    }
    rows = []
    for key, title, explanation, cell in _FIGURES:
        cells = [_cell(key, name, model, cell, metrics) for name, model in models.items()]
        rows.append(Row(key, title.format(**words), explanation.format(**words), cells))
    return rows


def ranked_labels(metrics: Metrics) -> list[str]:
    """The headings of the columns."""
    return [model["label"] for model in metrics["ranked_set"]["models"].values()]


def ranked_headline(metrics: Metrics) -> str:
    """One sentence: what training did to the order of held-out responses."""
    block = metrics["ranked_set"]
    trained, before = (block["models"][metrics[role]] for role in ("trained", "baseline"))
    where = f"Of {block['pairs']} pairs from {block['prompts']} held-out rankings"
    if trained["pair_accuracy"] is None:
        return f"{where} none can be compared."
    change = trained["pair_accuracy_difference"]
    return (
        f"{where} the trained student orders {share(trained['pair_accuracy'])} as they are ranked, "
        f"{before['label']} {share(before['pair_accuracy'])} ({_with_range(change, metrics)}); "
        f"the longer response first orders {share(block['models'][LONGER]['pair_accuracy'])}."
    )


def ranked_cautions(metrics: Metrics) -> list[tuple[str, str]]:
    """(kind, sentence) of what a reader must know beside the headline."""
    block = metrics["ranked_set"]
    trained = block["models"][metrics["trained"]]
    said: list[tuple[str, str]] = []
    change, longer = trained["pair_accuracy_difference"], trained["against_longer"]
    if change is not None and direction(change) == 0:
        said.append(("warning", "The change in the order of held-out pairs may be noise."))
    if longer is not None and longer["mean"] <= 0:
        text = "Its order is no better than putting the longer response first"
        said.append(("warning", f"{text} ({_with_range(longer, metrics)})."))
    if trained["matched_accuracy"] is not None:
        matched = trained["matched_difference"]
        text = (
            f"Of the {block['matched_pairs']} pairs of about the same length it orders "
            f"{share(trained['matched_accuracy'])} ({_with_range(matched, metrics)} to before)."
        )
        said.append(("good" if direction(matched) > 0 else "plain", text))
    if block["cut_share"]:
        cut = percent(block["cut_share"])
        said.append(("plain", f"{cut} of the held-out responses were cut before they ended."))
    return said


def share(interval: Mapping[str, Any] | None) -> str:
    """A mean share as per cent with a digit."""
    return share_percent(interval["mean"] if interval else None)


def _cell(key: str, name: str, model: Metrics, cell: Any, metrics: Metrics) -> Cell:
    # What is taken against the baseline says nothing about an order that cannot change.
    return Cell(NOTHING) if name == LONGER and key.endswith("difference") else cell(model[key])


def _other_orders(ranked: RankedSet, name: str, baseline: str, seed: int) -> dict[str, Any]:
    rows = list(zip(ranked.rankings, ranked.mean_logps[name], strict=True))
    sums = by_prompt(ranked.rankings, [by_sum(r, v) for r, v in rows])
    found: dict[str, Any] = {"sum_accuracy": _mean(sums, seed)}
    if name != baseline:
        before = ranked.mean_logps[baseline]
        ratios = [by_log_ratio(r, v, b) for (r, v), b in zip(rows, before, strict=True)]
        found["log_ratio_accuracy"] = _mean(by_prompt(ranked.rankings, ratios), seed)
    return found


def _mean(shares: Shares, seed: int) -> dict[str, Any] | None:
    return asdict(mean_interval(list(shares.values()), seed=seed)) if shares else None


def _difference(
    of: Mapping[str, Shares], name: str, other: str | None, seed: int
) -> dict[str, Any] | None:
    """`name` minus `other` on the prompts, which are the same for both."""
    if other is None or not of[name]:
        return None
    prompts: Sequence[str] = list(of[name])
    a, b = ([of[who][prompt] for prompt in prompts] for who in (name, other))
    return asdict(paired_difference(a, b, seed=seed))


def _with_range(interval: Metrics | None, metrics: Metrics) -> str:
    if interval is None:
        return "no difference"
    text = f"{points(interval['mean'])} points"
    if interval["low"] is None:
        return f"{text}, no interval"
    level = percent(metrics["statistics"]["interval_level"])
    low, high = points(interval["low"]), points(interval["high"])
    return f"{text}, {level} interval {low} to {high}"


_FIGURES: list[tuple[str, str, str, Any]] = [
    (
        "pair_accuracy",
        "Pairs in order",
        "Share of the pairs of differently ranked responses whose better one has the higher "
        "log-probability per token (equal: half), mean over prompts; with its {level} interval; "
        "bold where it excludes 50 %. In the first column the longer response, before any cut, "
        "counts as better.",
        interval_cell(share_percent, 0.5),
    ),
    (
        "pair_accuracy_difference",
        "minus {baseline}",
        "Difference, in points, on the same prompts, with its {level} interval (BCa bootstrap over "
        "prompts); bold where it excludes 0.",
        interval_cell(points, 0.0),
    ),
    (
        "against_longer",
        "minus longer first",
        "Difference to an order without a model, in points; bold where its interval excludes 0.",
        interval_cell(points, 0.0),
    ),
    (
        "matched_accuracy",
        "At equal length",
        "The same on pairs whose shorter response is at most {match} shorter ({matched}).",
        interval_cell(share_percent, 0.5),
    ),
    (
        "matched_difference",
        "minus {baseline}",
        "Difference at equal length, in points; bold where its interval excludes 0.",
        interval_cell(points, 0.0),
    ),
    (
        "sum_accuracy",
        "By sum",
        "Pairs in order by the log-probability of the whole response, which favours short ones.",
        interval_cell(share_percent, 0.5),
    ),
    (
        "log_ratio_accuracy",
        "By log-ratio",
        "Pairs in order by how much training raised the log-probability of the whole response: the "
        "implicit reward of DPO and its family.",
        interval_cell(share_percent, 0.5),
    ),
]
