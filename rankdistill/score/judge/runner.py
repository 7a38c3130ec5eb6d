"""Runs the plans of many groups at once over a judge that answers many questions at once."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from rankdistill.endpoint import Answer
from rankdistill.score.judge.modes import Plan, Question
from rankdistill.score.scorer import Verdict


class Respondent(Protocol):
    """Whoever answers: an endpoint, or an engine on this machine."""

    @property
    def capacity(self) -> int:
        """Questions that it should have in hand."""
        ...

    def submit(self, question: Question) -> Future[Answer]:
        """Answer in the background; the future raises UserError where the run must stop."""
        ...

    def close(self) -> None:
        """Drop what is not answered, and free what is held."""
        ...


@dataclass
class _Running:
    """A plan, and the round that it waits for."""

    plan: Plan
    answers: list[Answer | None] = field(default_factory=list)
    left: int = 0
    counts: Counter[str] = field(default_factory=Counter)


def run(plans: Iterable[Plan], respondent: Respondent) -> Iterator[list[Verdict]]:
    """The verdicts in the order of the plans, as soon as those before them are there.

    Plans are started while the respondent has fewer questions in hand than its capacity, and no
    more than twice that number is ahead of the first one that is not finished: memory is bounded
    by the capacity, whatever the number of plans.
    """
    waiting = enumerate(plans)
    running: dict[int, _Running] = {}
    finished: dict[int, Verdict] = {}
    done: queue.SimpleQueue[tuple[int, int, Future[Answer]]] = queue.SimpleQueue()
    delivered, in_hand, more = 0, 0, True

    def ask(number: int, verdicts: list[Any] | None) -> int:
        """The next round of a plan; the number of its questions."""
        state = running[number]
        try:
            questions = next(state.plan) if verdicts is None else state.plan.send(verdicts)
            while not questions:
                questions = state.plan.send([])
        except StopIteration as end:
            counts = running.pop(number).counts
            counts.update(end.value.counts)
            finished[number] = replace(end.value, counts=counts)
            return 0
        state.answers, state.left = [None] * len(questions), len(questions)
        for place, question in enumerate(questions):
            future = respondent.submit(question)
            future.add_done_callback(lambda f, place=place: done.put((number, place, f)))
        return len(questions)

    while True:
        ahead = 2 * respondent.capacity
        while more and in_hand < respondent.capacity and len(finished) + len(running) < ahead:
            number, plan = next(waiting, (-1, None))
            if plan is None:
                more = False
                break
            running[number] = _Running(plan)
            in_hand += ask(number, None)
        ready = []
        while delivered in finished:
            ready.append(finished.pop(delivered))
            delivered += 1
        if ready:
            yield ready
            continue
        if not running:
            return
        number, place, future = done.get()
        in_hand -= 1
        state, answer = running[number], future.result()
        state.answers[place] = answer
        state.counts.update(answer.counts)
        state.left -= 1
        if state.left == 0:
            in_hand += ask(number, [answer.result for answer in state.answers if answer])
