"""A teacher behind the API of `vllm serve`: sums, errors of a person, a server that comes back."""

from __future__ import annotations

import json

import httpx
import pytest

from rankdistill import http_client
from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup
from rankdistill.score.likelihood import Likelihood
from rankdistill.score.remote import RemoteTeacher

GROUPS = [TokenGroup([1, 2], [[3], [4, 5]]), TokenGroup([6], [[7, 8, 9]])]


def serving(request: httpx.Request) -> httpx.Response:
    """A token's log-probability is minus its id."""
    if request.url.path.endswith("/models"):
        return httpx.Response(200, json={"data": [{"id": "the-teacher"}]})
    body = json.loads(request.content)
    assert body["model"] == "the-teacher"
    rows = [None] + [{str(t): {"logprob": -float(t)}} for t in body["prompt"][1:]]
    return httpx.Response(200, json={"choices": [{"prompt_logprobs": rows}]})


def teacher(handler) -> RemoteTeacher:
    return RemoteTeacher("http://localhost:1/v1", httpx.MockTransport(handler))


def test_sums_over_the_response_only_in_the_order_of_the_groups():
    assert list(teacher(serving).logps(GROUPS)) == [[-3.0, -9.0], [-24.0]]
    assert list(teacher(serving).logps(GROUPS * 40)) == [[-3.0, -9.0], [-24.0]] * 40
    teacher(serving).check()


def test_a_server_that_comes_back_loses_nothing(monkeypatch):
    monkeypatch.setattr(http_client, "BACKOFF_S", 0.0)
    failures = iter([httpx.Response(503), httpx.ConnectError("gone")])

    def troubled(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/completions"):
            for failure in failures:
                if isinstance(failure, Exception):
                    raise failure
                return failure
        return serving(request)

    assert list(teacher(troubled).logps(GROUPS)) == [[-3.0, -9.0], [-24.0]]


def without_logprobs(request: httpx.Request) -> httpx.Response:
    if request.url.path.endswith("/models"):
        return serving(request)
    return httpx.Response(200, json={"choices": [{"text": "no"}]})


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        (lambda _: httpx.Response(401), "VLLM_API_KEY"),
        (lambda _: httpx.Response(404), "refuses /models"),
        (lambda _: httpx.Response(200, json={"data": []}), "serves no model"),
        (without_logprobs, "no prompt_logprobs"),
        (lambda _: httpx.Response(500), "does not answer"),
    ],
)
def test_what_cannot_work_is_one_sentence(handler, told, monkeypatch):
    monkeypatch.setattr(http_client, "BACKOFF_S", 0.0)
    with pytest.raises(UserError, match=told) as caught:
        teacher(handler).check()
    assert "\n" not in str(caught.value)


def test_a_url_that_would_be_logged_with_its_secret_is_refused():
    with pytest.raises(UserError, match=r"score.through carries credentials .* VLLM_API_KEY"):
        RemoteTeacher("http://me:secret@localhost:1/v1")


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    seen = []

    def watching(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return serving(request)

    teacher(watching).check()
    assert set(seen) == {"Bearer secret"}
    scorer = Likelihood(True, 64, through="http://localhost:1/v1")
    assert scorer.identity == Likelihood(True, 64, through="vllm").identity


def test_a_url_has_one_model():
    with pytest.raises(UserError, match="URL of one teacher"):
        Likelihood(True, 64, contrast="some/model", through="http://localhost:1/v1")
    with pytest.raises(UserError, match="no URL"):
        Likelihood(True, 64, through="vlm")
