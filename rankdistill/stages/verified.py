"""The evaluate stage of a verified run: which demands answers follow, under every control.

An *arm* is a model and a way to have it answer: sampled, greedy, with a better prompt, the best of
n samples. None of them trains; what a trained student gains must be more than each of them gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from rankdistill.console import result
from rankdistill.errors import UserError
from rankdistill.evaluate.guards import (
    base_of,
    belongs,
    only_marks_share,
    plain_figures,
    right_share,
    teacher_logp,
)
from rankdistill.evaluate.majority import majority_rows
from rankdistill.evaluate.prompting import PROMPTINGS, prompted
from rankdistill.evaluate.schema import VerifiedOptions
from rankdistill.evaluate.verified import (
    DemandRow,
    Verified,
    best_of_rows,
    demand_rows,
    kinds_of,
    subset,
    tally,
)
from rankdistill.models import Rows, encode_prompt
from rankdistill.rows import Prompt, row_columns
from rankdistill.sample.model_folder import max_positions
from rankdistill.score.scorer import Scorer
from rankdistill.stages.comparison import LABELS, called, evaluation_judge
from rankdistill.stages.run import Model, Run
from rankdistill.stages.sample import sample
from rankdistill.stages.score import score
from rankdistill.stages.settings import Settings
from rankdistill.store import Partial
from rankdistill.store.sequences import mapped, selected

GUARDED = ("warmed_up", "trained", "teacher")
"""Models whose answers are guarded: what training changed, and what the teacher's are like."""
WORKED = 4
"""Train prompts with responses that stand before a prompt as examples."""


def verifier_of(settings: Settings) -> Scorer | None:
    """The rule that the evaluation's answers are held against; None: no verifier judges here."""
    for scorer in evaluation_judge(settings).members.values():
        if scorer.verifies:
            return scorer
    return None


def by_split_of(prompts: Rows) -> dict[str, Rows]:
    """The prompts of each split; `plain` are the held-out ones that demand nothing."""
    places: dict[str, list[int]] = {n: [] for n in ("train", "validation", "heldout", "plain")}
    rows = mapped(prompts.rows, lambda row: {k: v for k, v in row.items() if k != "responses"})
    for place, row in enumerate(rows):
        places["plain" if row_columns(row).get("demands") == [] else row["split"]].append(place)
    return {name: Rows(selected(rows, of), prompts.key) for name, of in places.items()}


def verification_of(run: Run, by_split: Mapping[str, Rows]) -> Verification | None:
    """What is measured of verified answers; None where no verifier judges the evaluation."""
    suite, quick, verifier = run.settings.verified, run.settings.quick, verifier_of(run.settings)
    answered = not run.settings.reward.only and by_split["heldout"].rows
    if suite is None or quick is None or verifier is None or not answered:
        return None
    return Verification(run, suite, verifier, by_split, quick.responses_per_prompt)


@dataclass
class Verification:
    """The arms of a run's models on its held-out prompts."""

    run: Run
    suite: VerifiedOptions
    verifier: Scorer
    by_split: Mapping[str, Rows]
    """With `plain`: the held-out prompts without demands."""
    responses_per_prompt: int
    _prompting: dict[str, Any] | None = None
    _looked: bool = False
    _known: dict[str, Rows] = field(default_factory=dict)

    @property
    def rule(self) -> str:
        """What the verifier's rule is called."""
        return self.verifier.rule or self.verifier.name

    @cached_property
    def trained_kinds(self) -> list[str]:
        """The kinds of demands that train prompts have."""
        return kinds_of(self.by_split["train"].rows, self.rule)

    @cached_property
    def worked(self) -> list[Prompt]:
        """The examples, of prompts with a reference answer; demands have examples of their own."""
        if self.verifier.checks_demands:
            return []
        return [*islice((p for p in self.by_split["train"] if p.get("response")), WORKED)]

    def before_training(self, models: Mapping[str, Model]) -> None:
        """Have the students answer while their engine runs, and choose the better prompt.

        Args:
            models: `warmed_up`, and `start` where there is one.
        """
        self._find_prompting(models["warmed_up"])
        for name, model in models.items():
            self._all_answers(name, model)

    def sample(self, models: Mapping[str, Model]) -> None:
        """Have all models answer in one pass, before any of them is read.

        The teacher first: its engine is of another shape than the students', which then serves
        the control as well.
        """
        self._find_prompting(models["warmed_up"])
        for name, model in sorted(models.items(), key=lambda item: item[0] != "teacher"):
            self._all_answers(name, model)

    def measure(
        self, models: Mapping[str, Model], labels: Mapping[str, str], sharpened: float | None
    ) -> Verified:
        """All arms of all models, and the guards.

        Args:
            models: By the name in the report.
            labels: Their headings.
            sharpened: Temperature of the same-entropy control; None: there is none.
        """
        arms = {name: self._arms(name, model) for name, model in models.items()}
        if sharpened is not None:
            groups = self._answers(models["warmed_up"], "sharpened", sharpened)
            arms["sharpened"] = {"sharpened": groups}
        rows, headings = [], {}
        for name in [name for name in LABELS if name in arms]:
            label = labels.get(name, f"same entropy, T={sharpened or 1.0:.2f}")
            for arm, groups in arms[name].items():
                own = self._rows(groups, arm)
                way = arm.removeprefix(name).lstrip("_").replace("_", " ")
                if way == "samples":
                    for n in self.suite.best_of:
                        rows += best_of_rows(own, f"{name}_best_of_{n}", n)
                        headings[f"{name}_best_of_{n}"] = f"{label}, best of {n}"
                    continue
                rows += own
                headings[arm] = f"{label}, {way}" if way else label
        best = None
        if self.suite.majority is not None and "teacher" in models:
            best = self._teacher_best(models["teacher"], rows, headings)
        guards = {
            name: self._guards(name, model) for name, model in models.items() if name in GUARDED
        }
        return Verified(rows, headings, self._prompting, guards, self.rule, best)

    def _rows(self, groups: Rows, arm: str) -> list[DemandRow]:
        return demand_rows(groups.rows, arm, self.trained_kinds, self.rule, self.suite.form)

    def _all_answers(self, name: str, model: Model) -> None:
        """Have one model write all that is measured of it."""
        self._arms(name, model)
        if name in GUARDED and self.by_split["plain"].rows:
            self._plain(name, model)
        chosen = self.suite.majority is not None and bool(self.by_split["validation"].rows)
        if name == "teacher" and chosen:
            for split in ("validation", "heldout"):
                self._teacher_ways(model, split)

    def _arms(self, name: str, model: Model) -> dict[str, Rows]:
        """The verified answers of one model, by arm."""
        arms = {name: self._answers(model, name)}
        if name == "start":
            return arms
        if self.suite.greedy:
            arms[f"{name}_greedy"] = self._answers(model, f"{name}, greedy", 0.0, count=1)
        if self._prompting is not None:
            way = self._prompting["chosen"]
            arms[f"{name}_prompted"] = self._answers(model, f"{name}, prompted", way=way)
        if name == "warmed_up" and self.suite.best_of:
            few = self.by_split["heldout"].first(self.suite.best_of_prompts)
            count, what = max(self.suite.best_of), f"{name}, {max(self.suite.best_of)} samples"
            arms[f"{name}_samples"] = self._answers(model, what, count=count, prompts=few)
        return arms

    def _answers(
        self,
        model: Model,
        what: str,
        temperature: float | None = None,
        *,
        count: int | None = None,
        way: str | None = None,
        prompts: Rows | None = None,
    ) -> Rows:
        """What a model writes to the held-out prompts, or others, verified; once by `what`."""
        if what in self._known:
            return self._known[what]
        prompts = self.by_split["heldout"] if prompts is None else prompts
        if way is not None:
            worked = self.worked if way == "examples" else []
            which = f"{way} {[p['prompt_id'] for p in worked]}" if worked else f"{way} 2"
            asked = [prompted(p, way, worked) for p in prompts]
            prompts = Rows(asked, f"{prompts.key} {which}")
        source = "teacher" if model == self.run.teacher else "student"
        count = count or self.responses_per_prompt
        name, comma, rest = what.partition(",")
        who = f"{called(name, self.run.settings)}{comma}{rest}"
        sampled = sample(self.run, model, prompts, source, count, temperature=temperature, who=who)
        self._known[what] = score(self.run, sampled, who, self.verifier).held()
        return self._known[what]

    def _find_prompting(self, model: Model) -> None:
        """Choose the better prompt, once in a run."""
        if self.suite.prompted and not self._looked:
            self._prompting, self._looked = self._choose(model), True

    def _choose(self, model: Model) -> dict[str, Any] | None:
        """The better prompt that does best on validation prompts, and the figures of all."""
        if not self.by_split["validation"].rows:
            return None
        ways = [way for way in PROMPTINGS if self._fits(model, way)]
        if not ways:
            return None
        figures = {way: self._validation_share(model, way) for way in (None, *ways)}
        chosen = max(ways, key=lambda way: figures[way])
        told = {way or "as asked": figure for way, figure in figures.items()}
        shown = ", ".join(f"{way} {100 * figure:.1f} %" for way, figure in told.items())
        result(f"better prompt: {chosen} (on validation prompts {shown})")
        return {"chosen": chosen, "validation": told}

    def _fits(self, model: Model, way: str) -> bool:
        """Whether every prompt, asked so, is one that the template takes and has room for."""
        tokenizer = model.tokenizer()
        most = max_positions(model.folder) or math.inf
        room = most - self.run.settings.sample.max_response_tokens
        prompts = [*self.by_split["validation"], *self.by_split["heldout"]]
        try:
            whole = (prompted(p, way, self.worked) for p in prompts)
            asked = (encode_prompt(tokenizer, prompt["messages"]) for prompt in whole)
            return all(len(ids) <= room for ids in asked)
        except UserError:
            return False  # a template without system messages

    def _validation_share(self, model: Model, way: str | None) -> float:
        groups = self._answers(
            model, f"{way or 'as asked'}, validation", way=way,
            prompts=self.by_split["validation"],
        )  # fmt: skip
        return _share(self._rows(groups, "validation"))

    def _teacher_ways(self, teacher: Model, split: str) -> dict[str, list[DemandRow]]:
        """The teacher's answers to the prompts of a split, by the way that it was had to answer."""
        prompts, count = self.by_split[split], self.suite.majority
        greedy = self._answers(teacher, f"teacher, greedy, {split}", 0.0, count=1, prompts=prompts)
        several = self._answers(
            teacher, f"teacher, {count} samples, {split}", count=count, prompts=prompts
        )
        voted = self._rows(several, "teacher_majority")
        ways = {
            "greedy": self._rows(greedy, "teacher_greedy"),
            f"majority of {count}": majority_rows(several.rows, voted, "teacher_majority"),
        }
        if self.worked and self._fits(teacher, "examples"):
            shown = self._answers(
                teacher, f"teacher, examples, {split}", 0.0, count=1, way="examples",
                prompts=prompts,
            )  # fmt: skip
            ways[f"{len(self.worked)} examples"] = self._rows(shown, "teacher_examples")
        return ways

    def _teacher_best(
        self, teacher: Model, rows: list[DemandRow], headings: dict[str, str]
    ) -> dict[str, Any] | None:
        """Add the teacher's ways to the arms, and once more the one that does best on validation.

        Returns:
            Which one that is, and the figures of all; None without validation prompts.
        """
        if not self.by_split["validation"].rows:
            return None
        on_validation = self._teacher_ways(teacher, "validation")
        figures = {way: _share(own) for way, own in on_validation.items()}
        chosen = max(figures, key=figures.__getitem__)
        ways = self._teacher_ways(teacher, "heldout")
        for way, own in ways.items():
            if own and own[0].arm not in headings:
                rows += own
                headings[own[0].arm] = f"teacher, {way}"
        rows += [replace(row, arm="teacher_best") for row in ways[chosen]]
        headings["teacher_best"] = f"teacher, best way: {chosen}"
        shown = ", ".join(f"{way} {100 * figure:.1f} %" for way, figure in figures.items())
        result(f"the teacher's best way: {chosen} (on validation prompts {shown})")
        return {"chosen": chosen, "validation": figures}

    def _guards(self, name: str, model: Model) -> dict[str, Any]:
        """What a gain that is a hack would cost; see `rankdistill.evaluate.guards`."""
        answers = self._answers(model, name)
        right, of = right_share(answers.rows)
        found: dict[str, Any] = {
            "right": right,
            "right_of": of,
            "only_marks": only_marks_share(answers.rows),
            **self._read(name, model, answers),
        }
        if self.by_split["plain"].rows:
            answers = self._plain(name, model)
            right, of = right_share(answers.rows)
            found["plain"] = {**plain_figures(answers.rows), "right": right, "right_of": of}
        return found

    def _plain(self, name: str, model: Model) -> Rows:
        """The answers to prompts without demands."""
        plain = self.by_split["plain"]
        asked = replace(plain, key=f"{plain.key} plain")
        return self._answers(model, f"{name}, nothing demanded", prompts=asked)

    def _read(self, name: str, model: Model, answers: Rows) -> Mapping[str, Any]:
        """What the teacher says of the answers: do they belong to their prompts, how likely?"""
        run = self.run
        bases = sorted({b for prompt in self.by_split["heldout"] if (b := base_of(prompt))})
        few = [group for group in answers if base_of(group)][: self.suite.guard_prompts]
        identity = {
            "code": 1,
            "reading": "guards",
            "model": model.identity,
            "teacher": run.teacher.identity,
            "groups": self.by_split["heldout"].key,
            "settings": [run.settings.seed, run.settings.sample.temperature, len(few), bases],
            "answers": [[r["text"] for r in group["responses"]] for group in answers],
            "layout": run.settings.train.layout.name,
        }

        def make(partial: Partial) -> Mapping[str, Any]:
            layout, budget = run.settings.train.layout.name, self.suite.max_batch_tokens
            reading = (run.teacher, self._teacher, layout, budget)
            row = {
                "teacher_logp": teacher_logp(answers, *reading),
                "belongs": belongs(few, bases, *reading, seed=0) if few else None,
                "belongs_of": len(few),
            }
            partial.shards().put([row])
            return {key: value for key, value in row.items() if value is not None}

        return run.stage(
            "evaluate", f"guards, {called(name, run.settings)}", identity, make
        ).rows()[0]

    @cached_property
    def _teacher(self) -> Any:
        self.run.hold_models(lambda: self.__dict__.pop("_teacher", None))
        return self.run.teacher.load_on_device()


def _share(rows: Sequence[DemandRow]) -> float:
    """The macro-average of trained kinds."""
    of = tally(subset(rows, "trained"))
    return 0.0 if of is None else float(of.mean(np.ones(len(of.clusters))))
