"""Distillation on what the student itself writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rankdistill.rows import Group
from rankdistill.sample import response_seed
from rankdistill.warmup.logits import LogitsWarmup
from rankdistill.warmup.schema import OnPolicyOptions


@dataclass(frozen=True, kw_only=True)
class OnPolicyWarmup(OnPolicyOptions, LogitsWarmup):
    """Logit distillation on responses that the student has written itself, in rounds.

    Generalised knowledge distillation (Agarwal et al. 2024, arXiv:2306.13649). At the start of a
    round the student as it is answers the prompts; the round then distils the teacher's
    distributions at those tokens. Differs from GKD and TRL: samples are fresh every round, not
    every step, so that they come from an engine and are kept; the share of the student's responses
    is exact, not drawn; each round has an optimiser and a schedule of its own; the divergence is
    multiplied by T^2.
    """

    def mixed(self, own: Sequence[Group], others: Sequence[Group], seed: int) -> list[Group]:
        """The share of prompts with the student's response, the rest with the other one.

        Prompts that have no other response keep the student's.
        """
        other = {group["prompt_id"]: group for group in others}
        order = sorted(own, key=lambda group: response_seed(seed, group["prompt_id"], -1))
        count = round(self.student_share * len(order))
        of_student = {group["prompt_id"] for group in order[:count]}
        return [
            group if (name := group["prompt_id"]) in of_student else other.get(name, group)
            for group in own
        ]
