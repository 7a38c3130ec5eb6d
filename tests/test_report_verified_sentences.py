"""What the report of a verified run says: its headline, its judge, and what it must not claim."""

from __future__ import annotations

from typing import Any

import pytest
from report_rows import interval, run_report, verified_metrics
from test_report import text_of

from rankdistill.report import metrics_of
from rankdistill.report.headline import findings, headline, judge_warning
from rankdistill.report.html import html_report
from rankdistill.report.markdown import markdown_report
from rankdistill.report.verified_sentences import judge_line


@pytest.fixture
def metrics() -> dict[str, Any]:
    return verified_metrics()


def with_contrasts(metrics: dict[str, Any], **changes: tuple) -> dict[str, Any]:
    """The metrics with the interval of all trained kinds of some contrasts changed."""
    for name, given in changes.items():
        metrics["verified"]["contrasts"][name]["trained"] = interval(*given)
    return metrics


def with_parts(metrics: dict[str, Any], **changes: tuple) -> dict[str, Any]:
    """The metrics with parts of the headline's contrast changed."""
    contrast = metrics["verified"]["contrasts"][metrics["verified"]["headline"]]
    contrast |= {name: interval(*given) for name, given in changes.items()}
    return metrics


def clear(metrics: dict[str, Any]) -> dict[str, Any]:
    """A gain of 13.3 points, in both groups, and more than all controls."""
    with_contrasts(
        metrics, greedy=(13.3, 5, 22.5), same_entropy=(14, 6, 21), prompt=(11, 3.1, 18.9),
        prompt_both=(12, 4, 20),
    )  # fmt: skip
    return with_parts(metrics, marks=(15, 6, 24), restrictions=(11, 2, 20))


# The headline.


def test_a_gain_with_the_strongest_control(metrics):
    assert headline(clear(metrics)) == (
        "The trained student follows 13.3 points more of the demands than the warmed-up one "
        "[5.0, 22.5] (greedy; 20 base prompts), and 11.0 [3.1, 18.9] more than the strongest "
        "control, a better prompt."
    )


def test_a_gain_in_marks_alone_is_called_so(metrics):
    with_parts(clear(metrics), restrictions=(4, -3, 11))
    assert headline(metrics).endswith(
        "a better prompt: in marks; restrictions of the whole text are not shown to change."
    )
    with_parts(metrics, restrictions=(-4, -8, -1))
    assert headline(metrics).endswith(
        ": in marks; restrictions of the whole text are followed less."
    )
    with_parts(metrics, marks=(3, -1, 7), restrictions=(11, 2, 20))
    assert headline(metrics).endswith(
        ": in restrictions of the whole text; marks are not shown to change."
    )


def test_a_control_that_reaches_as_much_is_named(metrics):
    with_contrasts(clear(metrics), prompt=(2, -3, 7))
    assert headline(metrics).endswith(
        "(greedy; 20 base prompts); not shown to be more than a better prompt (+2.0 [-3.0, 7.0])."
    )
    with_contrasts(metrics, same_entropy=(1, -2, 4))
    assert "more than the same entropy (+1.0 [-2.0, 4.0]) or a better prompt" in headline(metrics)
    with_contrasts(metrics, same_entropy=(9, 2, 14), prompt=(-5, -9, -1))
    assert headline(metrics).endswith("; it is 5.0 [1.0, 9.0] less than a better prompt.")


def test_no_gain_and_a_loss_are_called_so(metrics):
    with_contrasts(clear(metrics), greedy=(1.2, -3, 5))
    assert headline(metrics) == (
        "No gain of the trained student over the warmed-up one can be told: +1.2 points "
        "[-3.0, 5.0] (greedy; 20 base prompts)."
    )
    with_contrasts(metrics, greedy=(-4, -8, -1))
    assert headline(metrics) == (
        "The trained student follows 4.0 points fewer of the demands than the warmed-up one "
        "[1.0, 8.0] (greedy; 20 base prompts)."
    )
    with_contrasts(metrics, greedy=(4, None, None))
    assert "+4.0 points [no interval]" in headline(metrics)


def test_other_rules_and_a_student_without_warm_up(metrics):
    clear(metrics)["verified"]["rule"] = "number"
    metrics["verified"]["arms"]["warmed_up"]["label"] = "before training"
    assert headline(metrics).startswith(
        "The trained student meets the rule number in 13.3 points more of its answers than the one "
        "before training [5.0, 22.5]"
    )


def test_without_controls_that_is_said(metrics):
    clear(metrics)
    for name in ("same_entropy", "prompt", "prompt_both"):
        del metrics["verified"]["contrasts"][name]
    assert headline(metrics).endswith("[5.0, 22.5] (greedy; 20 base prompts).")
    assert "[warning] No control that trains nothing" in text_of(findings(metrics))


def test_runs_that_verified_nothing_keep_their_headline(metrics):
    old = metrics_of(run_report())
    assert headline({**metrics, "verified": None}) == headline(old)
    metrics["verified"]["headline"] = None
    assert headline(metrics) == headline(old)


# The sentences below it.


def test_no_claim_is_made_twice(metrics):
    text = text_of(findings(clear(metrics)))
    assert "sharpening" not in text and "may be noise" not in text
    assert "repetition" not in text
    assert text.count("Guards:") == 1 and "none worsened notably" in text


def test_kinds_that_were_kept_out(metrics):
    with_parts(clear(metrics), kept_out=(6, 1, 11))
    said = "Of kinds of demands that no training prompt has"
    assert f"[good] {said} more are followed: +6.0 points [1.0, 11.0]" in text_of(findings(metrics))
    with_parts(metrics, kept_out=(1, -2, 4))
    assert f"[plain] {said} no change is shown" in text_of(findings(metrics))
    with_parts(metrics, kept_out=(-4, -8, -1))
    assert f"[warning] {said} fewer are followed" in text_of(findings(metrics))


def test_a_gain_of_sampled_answers_alone(metrics):
    with_contrasts(clear(metrics), greedy=(1, -3, 5), sampled=(10, 4, 16))
    assert (
        "[warning] A gain is shown of sampled answers alone, +10.0 points [4.0, 16.0]: it may only "
        "be surer." in text_of(findings(metrics))
    )


def test_guards_that_worsened_are_said(metrics):
    guards = metrics["verified"]["guards"]["trained"]
    guards |= {"right": 0.14, "belongs": 0.64, "only_marks": 0.06}
    guards["plain"]["right"] = 0.2
    metrics["models"]["warmed_up"]["repetition"] = 0.03
    metrics["models"]["trained"]["repetition"] = 0.06
    text = text_of(findings(metrics))
    assert "[warning] Guards: right answers fell from 25.0 % to 14.0 % (of 96)." in text
    assert "right answers to prompts without demands fell from 35.0 % to 20.0 % (of 20)." in text
    assert "tells their request fell from 75.0 % to 64.0 % (of 24)." in text
    assert "6.0 % of the answers that were asked for a mark are nothing else (was 1.0 %)." in text
    assert "repetition rose from 3.0 % to 6.0 %." in text
    assert "none worsened" not in text


def test_guards_just_within_their_bounds_are_not(metrics):
    metrics["verified"]["guards"]["trained"] |= {"right": 0.16, "belongs": 0.66, "only_marks": 0.05}
    metrics["models"]["warmed_up"]["repetition"] = 0.03
    metrics["models"]["trained"]["repetition"] = 0.049
    assert "Guards: none worsened notably" in text_of(findings(metrics))


def test_few_base_prompts_are_said(metrics):
    metrics["verified"]["clusters"] = 12
    assert "Only 12 prompts" in text_of(findings(metrics))


# Who judged.


def test_the_judge_is_told_plainly(metrics):
    line = (
        "Verified by the rule `ifeval`, which also ranked the training responses; it sees the form "
        "of an answer, not what it says: see the guards."
    )
    assert judge_line(metrics) == line
    assert judge_warning(metrics) is None
    assert line in markdown_report(metrics, "")
    assert line.replace("`ifeval`", "<code>ifeval</code>") in html_report(metrics, "")
    assert judge_line(metrics_of(run_report())) is None


def test_where_the_rule_ranked_nothing_it_is_not_said_to(metrics):
    short = "Verified by the rule `ifeval`; it sees the form of an answer, not what it says: "
    for change in (
        {"optimiser_steps": None},
        {"ranking": {"scorers": {"likelihood": {}}}},
        {"stages": [{"stage": "rank", "counts": {"placebo_groups": 12}}]},
        {"stages": [{"stage": "train", "counts": {}}]},
    ):
        assert judge_line({**metrics, **change}) == f"{short}see the guards."
    assert "which also ranked" in str(
        judge_line({**metrics, "ranking": {"scorers": {"verifier": {}}}})
    )
    metrics["verified"]["rule"] = "number"
    assert judge_line(metrics) == (
        "Verified by the rule `number`, which also ranked the training responses."
    )


@pytest.mark.parametrize(
    ("change", "kind", "verdict"),
    [
        ((4, 1, 7), "good", "is right more often than the best of the teacher's ways"),
        ((1, -2, 4), "plain", "is not told apart from the best of the teacher's ways"),
        ((-5, -8, -1), "warning", "is right less often than the best of the teacher's ways"),
    ],
)
def test_the_student_is_held_against_the_best_of_its_teachers_ways(metrics, change, kind, verdict):
    block = metrics["verified"]
    assert not [found for found in findings(metrics) if "teacher's ways" in found.text]
    block["teacher_best"] = {
        "chosen": "majority of 8", "validation": {"greedy": 0.4, "majority of 8": 0.5}
    }  # fmt: skip
    block["contrasts"]["teacher_best"] = {**block["contrasts"]["greedy"]}
    with_contrasts(metrics, teacher_best=change)
    [told] = [found for found in findings(metrics) if "teacher's ways" in found.text]
    assert told.kind == kind and verdict in told.text and ", majority of 8: " in told.text
    assert told.text.endswith("where it was chosen: greedy 40.0 %, majority of 8 50.0 %.")
