"""Logit distillation between two tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rankdistill.forward import TokenGroup
from rankdistill.models import encode_prompt
from rankdistill.warmup.cross_rows import (
    CrossTeacher,
    ends_in_text,
    following_the_same_text,
    shared_tokens,
)
from rankdistill.warmup.distillation import Distillation, Supervision
from rankdistill.warmup.schema import CrossTokenizerOptions
from rankdistill.warmup.teachers import Divergence, Teacher


@dataclass(frozen=True, kw_only=True)
class CrossTokenizerWarmup(CrossTokenizerOptions, Distillation):
    """``alpha T^2 D + (1 - alpha) CE`` where D compares what follows the same text.

    Where both tokenizers have a token that begins after the same characters, the two distributions
    are compared over the tokens that both have and, sorted, over the others; see `CrossRows`. The
    cross-entropy holds for every token. With equal tokenizers the loss is that of `warmup=logits`,
    but for tokens inside a character, which are not compared. Differs from universal logit
    distillation (Boizard et al. 2024, arXiv:2402.12030), which pairs the i-th tokens whatever they
    follow, and all probabilities by their order alone.
    """

    needs_same_tokenizer: ClassVar[bool] = False

    @property
    def weights(self) -> tuple[float, float]:
        return self.alpha, 1 - self.alpha

    def teaches(self, supervision: Supervision, folder: Path | None) -> Callable[[Any], Teacher]:
        ours = supervision.tokenizer
        theirs = supervision.source.model.tokenizer()
        their_rows, alignment = [], []
        for group in supervision.groups:
            prompt = encode_prompt(theirs, group.get("teacher_messages") or group["messages"])
            for response in group["responses"]:
                if not response["token_ids"]:
                    continue
                ended = [theirs.eos_token_id] if response["finish_reason"] == "stop" else []
                ids, their_ends = ends_in_text(theirs, response["text"])
                ids = [*ids, *ended] or [theirs.eos_token_id]  # a text without a token
                _, ends = ends_in_text(ours, response["text"])
                count = len(response["token_ids"])
                their_rows.append(TokenGroup(prompt, [ids]))
                alignment.append(following_the_same_text(ends, count, their_ends, len(ids)))
        shared = shared_tokens(ours, theirs)
        divergence = Divergence(self.divergence, self.temperature)

        def live(student: Any) -> Teacher:
            return CrossTeacher(
                supervision.source.load(), their_rows, alignment, shared, divergence
            )

        return live
