"""Pairs of responses, as in RewardBench (Lambert et al. 2024, arXiv:2403.13787): is the better one
put first, by the policy's own log-probability, and by a reward model?

RewardBench's implicit reward is the log-ratio to a reference model; a model alone has its
log-probability, summed or per token. An accuracy is averaged over the pairs of a subset, then over
subsets, so that a large one does not count for more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from rankdistill.errors import UserError
from rankdistill.evaluate.items import ItemValues
from rankdistill.evaluate.schema import PairsOptions
from rankdistill.models import encode_answers
from rankdistill.prompts.odd_rows import OddRow, OddRows
from rankdistill.prompts.sources import read_rows, source_identity
from rankdistill.rank.formats import ranked_row
from rankdistill.suites.suite import Figure, Measured, Suite, item_figure, mean_figure

if TYPE_CHECKING:
    from rankdistill.stages.run import Model, Run
    from rankdistill.store import Output, Partial

WHOLE = "all"
"""The subset of a file whose rows name none."""


@dataclass(frozen=True)
class Pairs(PairsOptions, Suite):
    """Pair accuracies; the keys are explained in `eval/pairs.yaml`.

    Raises:
        UserError: a value out of its range.
    """

    name: ClassVar[str] = "pairs"

    def about(self) -> str:
        """How it was measured, in a few words."""
        subsets = len({row["subset"] for row in self._rows})
        return f"{len(self._rows)} pairs in {subsets} subset{'s' if subsets > 1 else ''}"

    def check(self, run: Run) -> None:
        """Read the pairs, and look at the reward model."""
        _ = self._rows
        if self.reward_model is not None:
            self._scorer(run).check(None)  # type: ignore[arg-type]

    def measure(self, run: Run, model: Model, role: str) -> Measured:
        """The figures of a policy, from the store where they are known; see `Suite`."""
        from rankdistill.evaluate.tokens import batches_of, policy_values
        from rankdistill.forward import TokenGroup, bind

        layout = run.settings.train.layout.name
        identity = {"model": model.identity, "layout": layout, "max_tokens": self.max_tokens}

        def make(partial: Partial) -> Mapping[str, Any]:
            run.close_sampler()
            tokenizer = model.tokenizer()
            ids, groups = [], []
            for row in self._rows:
                texts = [row[side] for side in ("chosen", "rejected")]
                prompt, sides = encode_answers(tokenizer, row["messages"], texts)
                if len(prompt) + max(map(len, sides)) <= self.max_tokens:
                    ids.append(row["id"])
                    groups.append(TokenGroup(prompt, sides))
            bound = bind(model.load_on_device(), layout)
            batches = batches_of(groups, max_batch_tokens=self.max_batch_tokens, layout=layout)
            rows = [
                {"id": name, "mean": means, "sum": _sums(means, group.responses)}
                for name, group, means in zip(
                    ids, groups, policy_values(bound, batches), strict=True
                )
            ]
            partial.shards("items").put(rows)
            return {"pairs": len(rows)}

        output = self._stage(run, identity, f"{role}: the order of {len(self._rows)} pairs", make)
        words = {
            "mean": ("per token", "the log-probability per token of the better response is higher"),
            "sum": ("summed", "the log-probability of the better response is higher"),
        }
        figures = [f for key in words for f in self._figures(output, key, *words[key])]
        return self._counted(output, figures)

    def others(self, run: Run) -> dict[str, Measured]:
        """The reward model's figures, where one is given: a column of its own."""
        if self.reward_model is None:
            return {}
        scorer = self._scorer(run)

        def make(partial: Partial) -> Mapping[str, Any]:
            run.close_sampler()
            verdicts = [v for part in scorer(self._groups(), None, 0) for v in part]  # type: ignore[arg-type]
            rows = [
                {"id": row["id"], "reward": list(verdict.values)}
                for row, verdict in zip(self._rows, verdicts, strict=True)
                if all(value == value for value in verdict.values)
            ]
            partial.shards("items").put(rows)
            return {"pairs": len(rows)}

        what = f"reward model: the order of {len(self._rows)} pairs"
        output = self._stage(run, {"reward_model": scorer.identity}, what, make)
        told = "the reward of the better response is higher"
        figures = self._figures(output, "reward", "reward", told)
        return {"reward_model": self._counted(output, figures)}

    def _stage(self, run: Run, identity: Mapping[str, Any], what: str, make: Any) -> Output:
        common = {
            "code": 1,
            "suite": self.name,
            "version": self.version,
            "data": source_identity(self.path or "", ()),
            "limit": self.limit,
        }
        return run.stage("evaluate", what, {**common, **identity}, make)

    def _figures(self, output: Output, key: str, title: str, told: str) -> list[Figure]:
        right: dict[str, dict[str, float]] = {}
        subset = {row["id"]: row["subset"] for row in self._rows}
        for row in output.rows("items"):
            better, worse = row[key]
            share = ((better > worse) + (better >= worse)) / 2
            right.setdefault(subset[row["id"]], {})[row["id"]] = share
        meaning = f"Pairs in which {told}"
        if len(right) <= 1:
            values = next(iter(right.values()), {})
            return [mean_figure(key, f"pairs, {title}", f"{meaning}.", values)]
        text = f"{meaning}; the mean over subsets."
        overall = item_figure(key, f"pairs, {title}", text, ItemValues.over_subsets(right.values()))
        parts = [
            mean_figure(f"{key}/{name}", f"pairs, {title}, {name}", f"{meaning}.", v, detail=True)
            for name, v in sorted(right.items())
        ]
        return [overall, *parts]

    def _counted(self, output: Output, figures: Sequence[Figure]) -> Measured:
        done = output.manifest["counts"]["pairs"]
        return Measured(figures, {"pairs": done, "set_aside": len(self._rows) - done})

    def _groups(self) -> list[Any]:
        return [
            {
                "prompt_id": row["id"],
                "messages": row["messages"],
                "responses": [{"text": row[side]} for side in ("chosen", "rejected")],
            }
            for row in self._rows
        ]

    def _scorer(self, run: Run) -> Any:
        from rankdistill.score.reward_model import RewardModel

        teacher = run.settings.teacher
        return RewardModel(
            model=self.reward_model or "",
            precision="auto",
            attn_implementation=teacher.attn_implementation,
            trust_remote_code=teacher.trust_remote_code,
            max_tokens=self.max_tokens,
            max_batch_tokens=self.max_batch_tokens,
        )

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        if self.path is None:
            raise UserError(
                "eval=[pairs] needs pairs: give eval.pairs.path, a file with prompt, chosen, "
                "rejected, and subset where there are several."
            )
        rows, odd = [], OddRows(self.path)
        for number, (where, row) in enumerate(read_rows(self.path)):
            if row.get("chosen") is None or row.get("rejected") is None:
                raise UserError(
                    f"There is no pair of chosen and rejected in {where} (eval.pairs.path): its "
                    "columns must be prompt, chosen and rejected."
                )
            try:
                messages, sides = ranked_row(row, where)
            except OddRow as error:
                odd.add(error)
                continue
            better, worse = sorted(sides, key=lambda side: -side["score"])
            rows.append(
                {
                    "id": str(number),
                    "subset": str(row.get("subset") or WHOLE),
                    "messages": messages,
                    "chosen": better["text"],
                    "rejected": worse["text"],
                }
            )
        odd.tell()
        if not rows:
            raise UserError(f"The file '{self.path}' (eval.pairs.path) has no rows: give another.")
        return rows[: self.limit]


def _sums(means: Sequence[float], responses: Sequence[Sequence[int]]) -> list[float]:
    return [mean * len(ids) for mean, ids in zip(means, responses, strict=True)]
