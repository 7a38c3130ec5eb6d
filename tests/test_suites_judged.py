"""MT-Bench and AlpacaEval with a judge behind an endpoint that does what the test scripts."""

from __future__ import annotations

import json

import pytest
from fake_endpoint import FakeEndpoint, shown
from suite_rows import OUTPUTS, QUESTIONS, REFERENCES, write
from tiny_run import run_here

from rankdistill.score.judge.verdicts import Reply
from rankdistill.suites.mt_bench import read_rating

pytestmark = pytest.mark.usefixtures("quick_retries")


def measured(monkeypatch, tmp_path, teacher, name: str, server: FakeEndpoint, *more: str) -> dict:
    folder = run_here(
        monkeypatch, tmp_path, "recipe=evaluate", f"eval=[{name}]", f"teacher.path={teacher}",
        "sample=transformers", f"eval.{name}.judge.endpoint={server.url}",
        f"eval.{name}.judge.model=judge-1", f"eval.{name}.judge.retries=1",
        f"eval.{name}.max_response_tokens=6", *more,
    )  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    return metrics["suites"][name]["models"]["trained"]


def test_mt_bench_rates_both_turns_and_sets_aside_what_cannot_be_read(
    monkeypatch, tmp_path, teacher
):
    files = [
        f"eval.mt_bench.questions={write(tmp_path / 'q.jsonl', QUESTIONS)}",
        f"eval.mt_bench.references={write(tmp_path / 'r.jsonl', REFERENCES)}",
    ]

    def brain(question: str):
        if "What is light?" in question and "heat" not in question:
            return ("I would rather not say.",)
        if "### User:" in question:  # the second turn, with the whole conversation
            return ("Fair. Rating: [[5]]",)
        return ("Good. Rating: [[8]]",) if "It is 2." in question else ("Rating: [[6.5]]",)

    with FakeEndpoint(brain) as server:
        found = measured(monkeypatch, tmp_path, teacher, "mt_bench", server, *files)
        asked = len(server.requests)
        again = measured(monkeypatch, tmp_path, teacher, "mt_bench", server, *files)
        assert len(server.requests) == asked + 1  # the question at start-up
    assert again == found
    means = {key: figure["mean"] for key, figure in found["figures"].items()}
    # Writing 6.5 and 5, mathematics 8 and 5, the third question its second turn only.
    assert means["turn_1"] == pytest.approx(7.25) and means["turn_2"] == pytest.approx(5.0)
    assert means["score"] == pytest.approx((5.75 + 6.5 + 5.0) / 3)
    assert means["math"] == pytest.approx(6.5) and means["stem"] == pytest.approx(5.0)
    assert found["counts"]["set_aside"] == 1
    references = [question for question in server.requests if "It is 2." in question]
    assert len(references) == 2 and any("It is 5." in question for question in references)


@pytest.mark.parametrize(
    ("text", "rating"),
    [("So: [[7]]", 7.0), ("[[9.5]] or [[2]]", 9.5), ("I say [4].", 4.0), ("[[11]]", None),
     ("seven", None)],
)  # fmt: skip
def test_a_rating_is_read_as_fastchat_reads_it(text, rating):
    assert read_rating(Reply(text)) == rating


def test_alpaca_eval_wins_by_length_are_not_wins_at_equal_length(monkeypatch, tmp_path, teacher):
    reference = write(tmp_path / "outputs.jsonl", OUTPUTS)
    given = f"eval.alpaca_eval.reference={reference}"

    def longer(question: str) -> str:
        first, second = (len(shown(question, f"{n} RESPONSE")) for n in ("FIRST", "SECOND"))
        return "tie" if first == second else "first" if first > second else "second"

    with FakeEndpoint(longer) as server:
        found = measured(monkeypatch, tmp_path, teacher, "alpaca_eval", server, given)
    figures = found["figures"]
    answers = figures["length"]["mean"]
    won = figures["win_rate"]["mean"]
    assert figures["win_rate"]["items"] == 6 and 0 < answers < 30 and won < 0.5
    assert abs(figures["length_controlled_win_rate"]["mean"] - 0.5) < abs(won - 0.5)
    with FakeEndpoint(lambda question: "first") as server:  # contradicts itself: half
        other = ["eval.alpaca_eval.judge.max_answer_tokens=99"]
        found = measured(monkeypatch, tmp_path, teacher, "alpaca_eval", server, given, *other)
    assert found["figures"]["win_rate"]["mean"] == 0.5
    assert found["figures"]["length_controlled_win_rate"]["mean"] == pytest.approx(0.5, abs=1e-3)
