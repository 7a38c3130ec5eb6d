"""MT-Bench (Zheng et al. 2023, arXiv:2306.05685): two turns, each rated from 1 to 10 by a judge.

Questions, reference answers and judge prompts are FastChat's (Apache-2.0). As there: a category has
its own temperature, mathematics, reasoning and coding are judged beside a reference answer, the
second turn is judged with the whole conversation, and an answer counts by its [[rating]]. Here an
answer that cannot be read is asked for again, then set aside; FastChat counts it as -1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import as_file, files
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from rankdistill.errors import UserError
from rankdistill.evaluate.schema import MTBenchOptions
from rankdistill.prompts.sources import read_rows
from rankdistill.score.judge.modes import Question
from rankdistill.score.judge.verdicts import Form, Reply
from rankdistill.store import Output, Partial
from rankdistill.suites.judging import JudgedSuite, Request, write_answers
from rankdistill.suites.suite import Figure, Measured, mean_figure

if TYPE_CHECKING:
    from rankdistill.stages.run import Model, Run


TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
"""By category; the others are answered greedily."""
WITH_REFERENCE = ("math", "reasoning", "coding")
_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_RATING_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")


@dataclass(frozen=True)
class MTBench(MTBenchOptions, JudgedSuite):
    """The ratings of a model's answers; the keys are explained in `eval/mt_bench.yaml`.

    Raises:
        UserError: a value out of its range.
    """

    name: ClassVar[str] = "mt_bench"

    def about(self) -> str:
        """How it was measured, in a few words."""
        return f"{len(self._asked)} questions of two turns, judged by {self.judge.model}"

    def check(self, run: Run) -> None:
        """Read all files, and ask the judge a question."""
        for row in self._asked:
            if row["category"] in WITH_REFERENCE and row["id"] not in self._reference_answers:
                raise UserError(
                    f"Question {row['id']} ({row['category']}) has no reference answer: add one to "
                    "the file that eval.mt_bench.references names."
                )
        _ = self._frames
        self.check_judge(FORM)

    def measure(self, run: Run, model: Model, role: str) -> Measured:
        """The figures of a model, from the store where they are known; see `Suite`."""
        answers = self._answers(run, model, role)
        turns = {row["id"]: row["turns"] for row in answers.rows("items")}
        asked = [pair for row in self._asked for pair in self._questions(row, turns[row["id"]])]
        by = {"prompts": self._frames, "references": self._reference_answers}
        what = f"{role}: mt_bench, {len(asked)} answers"
        unanswered = 2 * len(self._asked) - len(asked)
        return self._measured(self.judged(run, what, answers, asked, by), unanswered)

    def _answers(self, run: Run, model: Model, role: str) -> Output:
        def make(partial: Partial) -> Mapping[str, Any]:
            turns: dict[str, list[str]] = {row["id"]: [] for row in self._asked}
            for turn in (0, 1):
                requests = [
                    Request(
                        row["id"],
                        _conversation(row["turns"][: turn + 1], turns[row["id"]]),
                        TEMPERATURES.get(row["category"], 0.0),
                    )
                    for row in self._asked
                    if len(turns[row["id"]]) == turn
                ]
                shards = partial.shards(f"turn_{turn + 1}")
                most = self.max_response_tokens
                for name, text in write_answers(run, model, requests, most, shards).items():
                    turns[name].append(text)
            partial.shards("items").put([{"id": k, "turns": v} for k, v in turns.items()])
            return {"responses": sum(map(len, turns.values()))}

        what = f"{role}: mt_bench, answers to {len(self._asked)} questions"
        return self.written(run, model, what, {"questions": self._asked}, make)

    def _questions(
        self, row: Mapping[str, Any], answers: Sequence[str]
    ) -> list[tuple[str, list[Question]]]:
        """The judge's question to every turn that was answered."""
        kind = "single-math-v1" if row["category"] in WITH_REFERENCE else "single-v1"
        reference = self._reference_answers.get(row["id"], ["", ""])
        parts = {
            "question": row["turns"][0],
            "answer": answers[0] if answers else "",
            **{f"question_{i}": text for i, text in enumerate(row["turns"], 1)},
            **{f"answer_{i}": text for i, text in enumerate(answers, 1)},
            **{f"ref_answer_{i}": text for i, text in enumerate(reference, 1)},
        }
        names = [kind, f"{kind}-multi-turn"][: len(answers)]
        return [
            (f"{row['id']}/{turn}", [self._question(name, parts)])
            for turn, name in enumerate(names, 1)
        ]

    def _question(self, name: str, parts: Mapping[str, str]) -> Question:
        frame = self._frames[name]
        # In one pass: what models wrote is never searched for placeholders.
        text = PLACEHOLDER.sub(lambda found: parts.get(found[1], found[0]), frame["template"])
        system = {"role": "system", "content": frame["system"]}
        return Question([system, {"role": "user", "content": text}], FORM)

    def _measured(self, output: Output, unanswered: int) -> Measured:
        ratings: dict[str, dict[int, float]] = {}
        for row in output.rows("verdicts"):
            name, _, turn = row["id"].rpartition("/")
            if row["values"][0] is not None:
                ratings.setdefault(name, {})[int(turn)] = row["values"][0]
        counts = dict(output.manifest["counts"])
        counts["set_aside"] = counts.get("set_aside", 0) + unanswered

        def mean(
            key: str, title: str, meaning: str, values: dict[str, float], part: bool
        ) -> Figure:
            return mean_figure(key, title, meaning, values, share=False, detail=part)

        explanation = "Mean rating, 1 to 10"
        overall = {name: fmean(of.values()) for name, of in ratings.items()}
        figures = [mean("score", "MT-Bench", f"{explanation}, of both turns.", overall, False)]
        for turn in (1, 2):
            values = {name: of[turn] for name, of in ratings.items() if turn in of}
            title = f"MT-Bench, turn {turn}"
            figures.append(mean(f"turn_{turn}", title, f"{explanation}.", values, False))
        category = {row["id"]: row["category"] for row in self._asked}
        for name in dict.fromkeys(category.values()):
            values = {k: mean for k, mean in overall.items() if category[k] == name}
            figures.append(mean(name, f"MT-Bench, {name}", f"{explanation}.", values, True))
        return Measured(figures, counts)

    @cached_property
    def _asked(self) -> list[dict[str, Any]]:
        return read_questions(self.questions)[: self.limit]

    @cached_property
    def _reference_answers(self) -> dict[str, list[str]]:
        return read_references(self.references)

    @cached_property
    def _frames(self) -> dict[str, dict[str, str]]:
        return read_frames(self.prompts)


def read_rating(reply: Reply) -> float | None:
    """The rating that a judge's answer ends with, 1 to 10; None where there is none."""
    found = _RATING.findall(reply.answer) or _RATING_BACKUP.findall(reply.answer)
    rating = float(found[0]) if found else None
    return rating if rating is not None and 1 <= rating <= 10 else None


FORM = Form(schema={}, told='Rating: "[[5]]"', read=read_rating)


def _conversation(asked: Sequence[str], answered: Sequence[str]) -> list[dict[str, str]]:
    messages = []
    for i, text in enumerate(asked):
        messages.append({"role": "user", "content": text})
        if i < len(answered):
            messages.append({"role": "assistant", "content": answered[i]})
    return messages


PLACEHOLDERS = {
    "single-v1": ("question", "answer"),
    "single-math-v1": ("question", "ref_answer_1", "answer"),
    "single-v1-multi-turn": ("question_1", "answer_1", "question_2", "answer_2"),
    "single-math-v1-multi-turn": (
        "question_1", "ref_answer_1", "question_2", "ref_answer_2", "answer_1", "answer_2",
    ),
}  # fmt: skip
"""What the prompt of each name must have, in braces."""
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def read_questions(path: str | None) -> list[dict[str, Any]]:
    """Rows of `id`, `category` and two `turns`. UserError: a row is no question."""
    rows = _rows(path, "questions.jsonl", "questions")
    return [_question_row(row, where) for where, row in rows]


def read_references(path: str | None) -> dict[str, list[str]]:
    """The reference answers to both turns by the question's id. UserError: a row is none."""
    found = {}
    for where, row in _rows(path, "reference_answers.jsonl", "references"):
        try:
            turns = row["choices"][0]["turns"] if "choices" in row else row["turns"]
            found[str(row["question_id"])] = [str(text) for text in turns]
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"A reference answer needs question_id and choices[0].turns, and {where} "
                "(eval.mt_bench.references) has not both."
            ) from error
    return found


def read_frames(path: str | None) -> dict[str, dict[str, str]]:
    """`system` and `template` by name. UserError: a prompt, or a placeholder, is missing."""
    frames = {}
    for _, row in _rows(path, "judge_prompts.jsonl", "prompts"):
        template, system = row.get("prompt_template"), row.get("system_prompt")
        if row.get("name") in PLACEHOLDERS and template:
            frames[str(row["name"])] = {"template": template, "system": system or ""}
    where = f"'{path}' (eval.mt_bench.prompts)"
    for name, needed in PLACEHOLDERS.items():
        if name not in frames:
            raise UserError(f"The judge's prompts in {where} lack '{name}': add it.")
        has = PLACEHOLDER.findall(frames[name]["template"])
        missing = [f"{{{part}}}" for part in needed if part not in has]
        if missing:
            raise UserError(
                f"The judge's prompt '{name}' in {where} lacks {' and '.join(missing)}: put "
                "them into its prompt_template."
            )
    return frames


def _rows(path: str | None, shipped: str, key: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The rows of a file of the user's, or of the shipped one."""
    if path is not None:
        rows = list(read_rows(path))
        if not rows:
            raise UserError(f"The file '{path}' (eval.mt_bench.{key}) has no rows: give another.")
        return rows
    with as_file(files("rankdistill.data") / "mt_bench" / shipped) as file:
        return list(read_rows(str(file)))


def _question_row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    turns = row.get("turns")
    if not isinstance(turns, list) or len(turns) != 2 or "question_id" not in row:
        raise UserError(
            f"A question needs question_id, category and two turns, and {where} "
            "(eval.mt_bench.questions) has not."
        )
    category = str(row.get("category") or "general")
    return {"id": str(row["question_id"]), "category": category, "turns": list(map(str, turns))}
