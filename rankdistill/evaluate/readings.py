"""What the teacher reads in answers: which request they belong to, and how likely they are.

The request is told from the answer by pointwise mutual information: log P(request | answer) minus
log P(request) under the teacher, so that a request which is likely anyway has no advantage.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from transformers import PreTrainedModel

from rankdistill.evaluate.guards import base_of, other_bases, top_1
from rankdistill.evaluate.tokens import batches_of, policy_values
from rankdistill.forward import TokenGroup, bind, response_logps
from rankdistill.models import Model, Rows, encode_prompt, encode_response
from rankdistill.rows import Group, Message

QUESTION = "Here is an answer:\n\n{answer}\n\nWhich request is it an answer to?"
NO_ANSWER = "..."


def teacher_logp(
    answers: Rows,
    teacher: Model,
    loaded: PreTrainedModel,
    layout: str,
    max_batch_tokens: int,
) -> float | None:
    """Mean over answers of the teacher's mean log-probability, nats per token.

    Args:
        answers: With their prompts.
        loaded: The teacher, where it runs.
        layout: Of the grouped forward.
        max_batch_tokens: Tokens that go through it at once.
    """
    rows = answers.tokens(teacher)
    if not rows:
        return None
    batches = batches_of(rows, max_batch_tokens=max_batch_tokens, layout=layout)
    return fmean(value for row in policy_values(bind(loaded, layout), batches) for value in row)


def belongs(
    groups: Sequence[Group],
    bases: Sequence[str],
    teacher: Model,
    loaded: PreTrainedModel,
    layout: str,
    max_batch_tokens: int,
    *,
    seed: int,
) -> float:
    """Share of first answers from which the teacher tells their own request among eleven.

    Args:
        groups: Answers to prompts whose base prompt is known.
        bases: All base prompts, from which ten others are drawn for each.
        seed: Of that draw; the others as in `teacher_logp`.
    """
    tokenizer = teacher.tokenizer()
    owns = [base_of(group) or "" for group in groups]
    asked = [[own, *other_bases(bases, own, seed)] for own in owns]
    every = sorted({base for choices in asked for base in choices})

    def group_of(answer: str, choices: Sequence[str]) -> TokenGroup:
        message = Message(role="user", content=QUESTION.format(answer=answer))
        responses = [encode_response(tokenizer, base) for base in choices]
        return TokenGroup(encode_prompt(tokenizer, [message]), responses)

    given = [
        group_of(group["responses"][0]["text"], choices)
        for group, choices in zip(groups, asked, strict=True)
    ]
    model = bind(loaded, layout)
    values = _sums(model, given, layout, max_batch_tokens)
    (prior,) = _sums(model, [group_of(NO_ANSWER, every)], layout, max_batch_tokens)
    before = dict(zip(every, prior, strict=True))
    verdicts = []
    for choices, sums in zip(asked, values, strict=True):
        own, *others = (a - before[base] for a, base in zip(sums, choices, strict=True))
        verdicts.append(top_1(own, others))
    return fmean(verdicts)


def _sums(model: Any, groups: Sequence[TokenGroup], layout: str, budget: int) -> list[list[float]]:
    """log P of each response of each group, nats."""
    sums: list[list[float]] = []
    with torch.no_grad():
        for batch in batches_of(groups, max_batch_tokens=budget, layout=layout):
            output = response_logps(model, batch.to(model.device))
            for row, lengths in zip(output.logps.tolist(), output.lengths.tolist(), strict=True):
                sums.append([v for v, length in zip(row, lengths, strict=True) if length > 0])
    return sums
