"""AlpacaEval (Li et al. 2023; length control: Dubois et al. 2024): a win rate against a reference.

Where it differs from the `alpaca_eval` package: the judge sees every pair in both orders and
answers first, second or tie, where the package shows one random order and weighs by the
log-probability of one token; and the length control has no term of difficulty (`length_control`).
So compare figures of this suite with each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from rankdistill.errors import UserError
from rankdistill.evaluate.items import ItemValues
from rankdistill.evaluate.schema import AlpacaEvalOptions
from rankdistill.prompts.sources import read_rows
from rankdistill.score.judge.modes import Question
from rankdistill.score.judge.prompts import Frame, delimited, load_criterion, load_frame
from rankdistill.score.judge.verdicts import duel_form
from rankdistill.statistics import Interval, mean_interval
from rankdistill.store import Output, Partial
from rankdistill.suites.judging import JudgedSuite, Request, write_answers
from rankdistill.suites.suite import Figure, Measured, mean_figure

if TYPE_CHECKING:
    from rankdistill.stages.run import Model, Run


FORM = duel_form(explain=False)


@dataclass(frozen=True)
class AlpacaEval(AlpacaEvalOptions, JudgedSuite):
    """Win rates against the outputs of a reference; the keys are in `eval/alpaca_eval.yaml`.

    Raises:
        UserError: no reference, or a value out of its range.
    """

    name: ClassVar[str] = "alpaca_eval"

    def about(self) -> str:
        """How it was measured, in a few words."""
        against = self._rows[0]["generator"]
        count = len(self._rows)
        return f"{count} instructions against {against}, judged by {self.judge.model}"

    def check(self, run: Run) -> None:
        """Read the reference's outputs and the prompt, and ask the judge a question."""
        _ = self._rows, self._frame
        self.check_judge()

    def measure(self, run: Run, model: Model, role: str) -> Measured:
        """The figures of a model, from the store where they are known; see `Suite`."""
        answers = self._answers(run, model, role)
        texts = {row["id"]: row["text"] for row in answers.rows("answers")}
        rows = [row for row in self._rows if row["id"] in texts]
        asked = [(row["id"], self._questions(row, texts[row["id"]])) for row in rows]
        by = {"reference": self._rows, "frame": self._frame.text, "criterion": self._criterion}
        what = f"{role}: alpaca_eval, {len(asked)} pairs"
        return self._measured(self.judged(run, what, answers, asked, by), texts)

    def _answers(self, run: Run, model: Model, role: str) -> Output:
        instructions = [row["instruction"] for row in self._rows]
        asked = {"instructions": instructions, "temperature": self.temperature}

        def make(partial: Partial) -> Mapping[str, Any]:
            requests = [
                Request(
                    row["id"], [{"role": "user", "content": row["instruction"]}], self.temperature
                )
                for row in self._rows
            ]
            shards = partial.shards("answers")
            written = write_answers(run, model, requests, self.max_response_tokens, shards)
            return {"responses": len(written)}

        what = f"{role}: alpaca_eval, answers to {len(self._rows)} instructions"
        return self.written(run, model, what, asked, make)

    def _questions(self, row: Mapping[str, str], text: str) -> list[Question]:
        """The pair in both orders; the model's response is first in the first."""
        conversation = [{"role": "user", "content": row["instruction"]}]
        return [
            Question(
                self._frame.ask(
                    conversation,
                    first=delimited("FIRST RESPONSE", first),
                    second=delimited("SECOND RESPONSE", second),
                    criterion=self._criterion,
                    answer=FORM.told,
                ),
                FORM,
            )
            for first, second in ((text, row["output"]), (row["output"], text))
        ]

    def _measured(self, output: Output, texts: Mapping[str, str]) -> Measured:
        shares = {}
        for row in output.rows("verdicts"):
            if None not in row["values"]:
                straight, swapped = row["values"]
                shares[row["id"]] = (_won(straight, 0) + _won(swapped, 1)) / 2
        rows = [row for row in self._rows if row["id"] in shares]
        won_by = {row["id"]: shares[row["id"]] for row in rows}
        won = [*won_by.values()]
        lengths = [float(len(texts[row["id"]])) for row in rows]
        baseline = [float(len(row["output"])) for row in rows]
        counts = {**output.manifest["counts"], "set_aside": len(self._rows) - len(rows)}
        against = f"against {self._rows[0]['generator']}"
        said = (
            f"Win rate {against}; a tie, or verdicts that contradict each other, half.",
            f"Win rate {against} at equal length (GLM without a term of difficulty).",
        )
        titles = ("AlpacaEval, win rate", "AlpacaEval, by length")
        keys = ("win_rate", "length_controlled_win_rate")
        if not won:
            figures = [mean_figure(*of, []) for of in zip(keys, titles, said, strict=True)]
        else:
            intervals = (mean_interval(won, seed=0), length_controlled(won, lengths, baseline))
            # The one at equal length is no mean over items.
            by_item = (ItemValues.of(won_by), None)
            figures = [
                Figure(key, title, text, of.mean, of.low, of.high, len(won), values=values)
                for key, title, text, of, values in zip(
                    keys, titles, said, intervals, by_item, strict=True
                )
            ]
        length = mean_figure(
            "length", "AlpacaEval, length", "Characters of a response.", lengths, share=False
        )
        return Measured([*figures, length], counts)

    @cached_property
    def _frame(self) -> Frame:
        return load_frame("pairwise", self.prompt, "eval.alpaca_eval.prompt")

    @cached_property
    def _criterion(self) -> str:
        return load_criterion("overall")[1]

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        """Instructions with the reference's outputs."""
        if self.reference is None:
            raise UserError(
                "eval=[alpaca_eval] needs the outputs of a reference model: give "
                "eval.alpaca_eval.reference, a file with instruction, output and generator."
            )
        rows = []
        for number, (where, row) in enumerate(read_rows(self.reference)):
            missing = [
                key for key in ("instruction", "output") if not isinstance(row.get(key), str)
            ]
            if missing:
                raise UserError(
                    f"There is no text '{missing[0]}' in {where} (eval.alpaca_eval.reference): its "
                    "columns must be instruction, output and generator."
                )
            generator = str(row.get("generator") or "the reference")
            rows.append(
                {
                    "id": str(number),
                    "instruction": row["instruction"],
                    "output": row["output"],
                    "generator": generator,
                }
            )
        if not rows:
            raise UserError(f"The file '{self.reference}' (eval.alpaca_eval.reference) is empty.")
        return rows[: self.limit]


def _won(ranks: list[int], position: int) -> float:
    """1, 0, or one half for a tie, of the response that was shown at `position`."""
    mine, other = ranks[position], ranks[1 - position]
    return (float(mine < other) + float(mine <= other)) / 2


_Z = 1.959963984540054
_THETA_PRECISION = 1e-3
"""Of a weak prior that keeps theta finite where everything is won; it moves no rate visibly."""


def length_controlled(
    shares: Sequence[float], lengths: Sequence[float], baseline_lengths: Sequence[float]
) -> Interval:
    """The length-controlled win rate (Dubois et al. 2024, arXiv:2404.04475), and its 95 % interval.

    A logistic regression of the judge's preferences on the difference in length tells what would be
    preferred if both responses were equally long. Their model of a preference for m over the
    baseline b on the instruction x, equation 2, is

        logit P(m over b | x) = theta_m + phi_m * tanh(d / std(d)) + psi_m * gamma_x

    with d = len_m - len_b and gamma_x, the difficulty of x, estimated once from all models of their
    leaderboard; the controlled win rate sets the length term to 0 and averages over x. We have no
    leaderboard, so the term of difficulty is left out, and the average is P at theta alone. As
    theirs, phi is regularised: by a standard normal prior, which matters where preferences and
    lengths separate.

    The interval is Wald's on the logit with a robust (sandwich) variance, since shares may be
    fractions.

    Args:
        shares: Preference for the model, in [0, 1], one per instruction.
        lengths: Of its responses, characters.
        baseline_lengths: Of the baseline's.

    Raises:
        ValueError: no instruction, or different numbers of them.
    """
    y = np.asarray(shares, dtype=np.float64)
    if not len(shares) == len(lengths) == len(baseline_lengths) or not len(shares):
        raise ValueError("a length-controlled win rate needs one share and two lengths each")
    x = _length_term(np.asarray(lengths, float) - np.asarray(baseline_lengths, float))
    design = np.stack([np.ones_like(x), x], axis=1)
    prior = np.array([_THETA_PRECISION, 1.0])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = design @ weights
        value = np.logaddexp(0.0, logits) - y * logits
        slope = design.T @ (expit(logits) - y) + prior * weights
        return float(value.sum() + 0.5 * (prior * weights**2).sum()), slope

    theta, phi = minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    mean = float(expit(theta))
    if len(y) == 1:
        return Interval(mean, None, None)
    rates = expit(design @ np.array([theta, phi]))
    bread = np.linalg.inv((design.T * (rates * (1 - rates))) @ design + np.diag(prior))
    meat = (design.T * (y - rates) ** 2) @ design
    error = math.sqrt(float((bread @ meat @ bread)[0, 0]))
    return Interval(mean, float(expit(theta - _Z * error)), float(expit(theta + _Z * error)))


def _length_term(differences: np.ndarray) -> np.ndarray:
    """tanh of the differences over their standard deviation; 0 where all are the same.

    Lengths that always differ by the same amount cannot be told apart from the model.
    """
    spread = float(differences.std())
    return np.tanh(differences / spread) if spread > 0 else np.zeros_like(differences)
