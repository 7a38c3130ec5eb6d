"""What a run ends with on a terminal, at any width, and the sentence's two halves."""

from __future__ import annotations

import io
import re

import pytest
from report_rows import run_report, verified_metrics
from rich.console import Console

from rankdistill.report import metrics_of, print_summary
from rankdistill.report.headline import BESIDE_CONTROL, findings, headline


def summary(metrics, width: int) -> list[str]:
    out = io.StringIO()
    returned = print_summary(metrics, Console(file=out, width=width, highlight=False))
    assert returned == out.getvalue()
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("verified", [False, True])
def test_no_figure_is_broken_at_any_width(width, verified):
    metrics = verified_metrics() if verified else metrics_of(run_report())
    lines = summary(metrics, width)
    assert all(len(line.rstrip()) <= width for line in lines)
    assert " ".join(" ".join(lines).split()).startswith(" ".join(headline(metrics).split()))
    wide = set(re.findall(r"[+-]?\d+\.\d+", "\n".join(summary(metrics, 200))))
    assert set(re.findall(r"[+-]?\d+\.\d+", "\n".join(lines))) <= wide


def test_a_line_for_each_model():
    lines = summary(metrics_of(run_report()), 100)
    table = [line for line in lines if re.search(r"\d %$", line)]
    names = ["before warm-up", "warmed up", "trained", "same entropy", "teacher"]
    assert [line[:14].strip() for line in table] == names
    narrow = summary(metrics_of(run_report()), 60)
    assert any(line.startswith("trained") and "[" in line for line in narrow)


def against(mean: float, low: float, high: float, **entropy: float):
    """The made-up run, which gains, with another difference to its control."""
    metrics = metrics_of(run_report())
    metrics["trained_against_control"]["difference"] = {"mean": mean, "low": low, "high": high}
    for name, value in entropy.items():
        metrics["models"][name]["entropy"] = value
    return metrics


def test_the_sentence_has_both_halves():
    assert headline(against(0.2, 0.1, 0.3)).endswith(
        ", and above the same student merely sampled colder."
    )
    said = ", but is not shown to beat the same student merely sampled colder."
    assert headline(against(0.2, -0.1, 0.3)).endswith(said)
    assert headline(against(0.2, 0.1, 0.3, sharpened=1.9)).endswith(said)
    assert "but below the same student" in headline(against(-0.2, -0.3, -0.1))
    alone = {**metrics_of(run_report()), "control": None, "ranking": {"groups": 40}}
    assert headline(alone).endswith("; no control says whether that is more than being surer.")
    # Models as they are: there is no training that sampling colder could pass for.
    assert headline({**alone, "ranking": None}).endswith("against -1.831).")


def test_every_pair_of_verdicts_has_a_sentence():
    verdicts = ("above", "below", "unknown")
    assert set(BESIDE_CONTROL) == {(a, b) for a in verdicts for b in (*verdicts, None)}


def test_where_nothing_changed_nothing_is_said_of_being_surer():
    metrics = against(0.0, -0.1, 0.1, trained=1.72)
    assert any("surer" in finding.text for finding in findings(metrics))
    metrics["models"]["trained"]["score_difference"] |= {"mean": 0.0, "low": -0.1, "high": 0.1}
    assert not any("surer" in finding.text for finding in findings(metrics))
