"""Guards against gains that are hacks: does an answer still belong to its prompt, and is it right?

A verifier sees a form alone: a title over nonsense follows a demand for a title. These figures are
what such a gain would cost. The teacher tells the request from the answer by pointwise mutual
information: log P(request | answer) minus log P(request), so that a request which is likely anyway
has no advantage.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from statistics import fmean

from transformers import PreTrainedModel

from rankdistill.evaluate.model_figures import repetition
from rankdistill.evaluate.tokens import batches_of, policy_values
from rankdistill.forward import TokenGroup, bind
from rankdistill.models import Model, Rows, encode_prompt, encode_response
from rankdistill.prompts.demands import kinds
from rankdistill.prompts.instructions import demands_of
from rankdistill.rows import Group, Message, answer_tokens, row_columns
from rankdistill.score.verifier.degenerate import is_only_marks, texts_of
from rankdistill.score.verifier.instructions import follows
from rankdistill.thoughts import answer_of

OTHERS = 10
"""Base prompts that an answer's own is held against."""


def base_of(group: Mapping[str, object]) -> str | None:
    """The base prompt that demands were put behind; None where the prompt has no such part."""
    return row_columns(group).get("base")


@cache
def known_answers() -> Mapping[str, tuple[str, ...]]:
    """The answers of the shipped requests that have a fixed one, by request; lower case."""
    text = (resources.files("rankdistill.data") / "everyday_prompts.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return {row["prompt"]: tuple(row["answers"]) for row in rows if row.get("answers")}


def is_right(text: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers occurs, as whole words and numbers, in any case."""
    # 8 is neither in 8.5 nor in 1,008.
    before, behind = r"(?<!\w)(?<!\d[.,])", r"(?!\w|[.,]\d)"
    return any(
        re.search(before + re.escape(answer) + behind, text, re.IGNORECASE) for answer in answers
    )


def right_share(groups: Sequence[Group]) -> tuple[float | None, int]:
    """Share of the answers to requests with a known answer that have it, and of how many."""
    verdicts = []
    for group in groups:
        answers = known_answers().get(base_of(group) or "", ())
        if answers:
            verdicts += [is_right(text, answers) for text in _answers(group)]
    return (fmean(verdicts) if verdicts else None), len(verdicts)


def only_marks_share(groups: Sequence[Group]) -> float | None:
    """Share of the answers that are nothing but marks, where a mark was asked for.

    Titles, postscripts, bullets, bold, brackets, and the phrases and words that were asked for are
    taken out; fewer than three words are left. None: no prompt asks for a mark.
    """
    verdicts = []
    for group in groups:
        demands = demands_of(row_columns(group))
        marks = [d for d in demands if d.side == d.kind and kinds()[d.kind].group == "marks"]
        if not marks:
            continue
        phrases = [text for d in marks for text in texts_of(d.arguments)]
        verdicts += [is_only_marks(text, phrases) for text in _answers(group)]
    return fmean(verdicts) if verdicts else None


def unasked(groups: Sequence[Group]) -> dict[str, float]:
    """Of answers to prompts without demands, the share that meets each side of every mark anyway.

    By the side's name, of sides that take no argument or a number: a habit shows as a mark that
    nobody asked for.
    """
    texts = [text for group in groups for text in _answers(group)]
    if not texts:
        return {}
    shares = {}
    for kind in kinds().values():
        side = kind.sides[0]
        arguments = side.known.arguments[0]
        if kind.group == "marks" and not texts_of(arguments):
            shares[side.name] = fmean(follows(text, side.rule, arguments) for text in texts)
    return shares


def _answers(group: Group) -> list[str]:
    return [answer_of(response["text"]) for response in group["responses"]]


def plain_figures(groups: Sequence[Group]) -> dict[str, object]:
    """Length, repetition and marks of the answers to prompts without demands."""
    responses = [response for group in groups for response in group["responses"]]
    if not responses:
        return {}
    return {
        "answers": len(responses),
        "tokens": fmean(map(answer_tokens, responses)),
        "repetition": fmean(repetition(response["token_ids"]) for response in responses),
        "unasked": unasked(groups),
    }


def other_bases(bases: Sequence[str], own: str, seed: int) -> list[str]:
    """`OTHERS` other base prompts, drawn by the own one; fewer where there are not as many."""
    others = sorted(set(bases) - {own})
    return random.Random(f"{seed} {own}").sample(others, min(OTHERS, len(others)))


def top_1(own: float, others: Sequence[float]) -> float:
    """1 where the own value is above all others; shared where it is tied with them for the top."""
    best = max([own, *others])
    if own < best:
        return 0.0
    return 1.0 / (1 + sum(other == best for other in others))


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
        group_of(answer_of(group["responses"][0]["text"]), choices)
        for group, choices in zip(groups, asked, strict=True)
    ]
    model = bind(loaded, layout)

    def logps(of: Sequence[TokenGroup]) -> list[list[float]]:
        batches = batches_of(of, max_batch_tokens=max_batch_tokens, layout=layout)
        return policy_values(model, batches, summed=True)

    values = logps(given)
    (prior,) = logps([group_of(NO_ANSWER, every)])
    before = dict(zip(every, prior, strict=True))
    verdicts = []
    for choices, sums in zip(asked, values, strict=True):
        own, *others = (a - before[base] for a, base in zip(sums, choices, strict=True))
        verdicts.append(top_1(own, others))
    return fmean(verdicts)
