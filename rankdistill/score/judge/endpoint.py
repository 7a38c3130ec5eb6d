"""A judge behind an OpenAI-compatible endpoint, see `rankdistill.endpoint`."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import Any

from rankdistill.endpoint import THIS_QUESTION, Answer, Client, Connection, json_of
from rankdistill.errors import UserError
from rankdistill.models.template import template_arguments
from rankdistill.score.judge.modes import Question
from rankdistill.score.judge.verdicts import Form, Reply, duel_form, rating_form
from rankdistill.score.schema import JudgeEndpoint

TOP_LOGPROBS = 20
"""The most that OpenAI and vLLM list."""


class Endpoint:
    """Puts questions to an endpoint and reads verdicts.

    Args:
        judge: Where it is, and how it answers: the keys of `group`.
        seed: Of its answers.

    Raises:
        UserError: an argument of the template is odd.
    """

    def __init__(self, judge: JudgeEndpoint, group: str, seed: int = 0) -> None:
        self._judge, self._url, self._seed = judge, judge.endpoint or "", seed
        key, where = f"{group}.chat_template_kwargs", f"{group}.endpoint"
        self._template = template_arguments(judge.chat_template_kwargs, key)
        self._client = Client(
            Connection(judge, [self._url], "The judge's endpoint", where, group, "judged")
        )

    @property
    def capacity(self) -> int:
        return self._client.capacity

    def submit(self, question: Question) -> Future[Answer]:
        return self._client.submit(partial(self._body, question), partial(_verdict, question.form))

    def close(self) -> None:
        self._client.close()

    def check(self, *, logprobs: bool = False, form: Form | None = None) -> None:
        """One small question, to learn at start-up whether it can work.

        Args:
            logprobs: They are needed.
            form: Of the answers, where it is neither a rating nor a duel.

        Raises:
            UserError: nobody there, key refused, no such model, structured answers refused, or no
                log-probabilities where they are needed.
        """
        if form is None:
            rating = rating_form(expected=True, explain=False)
            form = rating if logprobs else duel_form(explain=False)
        question = Question([{"role": "user", "content": f"A test. {form.told}"}], form)
        response = self._client.probe(self._body(question, 0), self._url)
        if response.status_code in THIS_QUESTION:
            raise UserError(
                f"The judge's endpoint {self._url} refuses structured answers or "
                f"log-probabilities: {self._client.message(response)}; take a server that has "
                "`response_format: json_schema`, and score.expected_score=false without the latter."
            )
        reply = _reply(json_of(response) or {}) if response.status_code == 200 else None
        if logprobs and reply is not None and reply.text and not reply.steps:
            raise UserError(
                f"The judge's endpoint {self._url} gives no log-probabilities, which "
                "expected scores are made of: set score.expected_score=false."
            )

    def _body(self, question: Question, attempt: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._judge.model,
            "messages": question.messages,
            "temperature": self._judge.temperature,
            "max_tokens": self._judge.max_answer_tokens,
            # Another draw for an answer that could not be read; no difference at temperature 0.
            "seed": self._seed + attempt,
        }
        if self._template:
            body["chat_template_kwargs"] = self._template
        if question.form.schema:
            told = {"name": "verdict", "strict": True, "schema": question.form.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": told}
        if question.form.logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return body


def _verdict(form: Form, answer: dict[str, Any]) -> Any:
    reply = _reply(answer)
    return None if reply is None else form.read(reply)


def _reply(answer: dict[str, Any]) -> Reply | None:
    """The first choice; None where the answer is no chat completion, or was cut."""
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        if not isinstance(text, str) or choice.get("finish_reason") == "length":
            return None
        listed = (choice.get("logprobs") or {}).get("content") or []
        steps = [
            (
                step["token"],
                {
                    **{top["token"]: float(top["logprob"]) for top in step["top_logprobs"]},
                    step["token"]: float(step["logprob"]),
                },
            )
            for step in listed
        ]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None
    return Reply(text, steps)
