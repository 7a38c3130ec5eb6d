"""A served model as a writer: an endpoint that answers well, slowly, nothing, errors, or not."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest
from fake_endpoint import KEY, FakeEndpoint, shown
from tiny_run import TINY, refusal, run_by_two, run_here

from rankdistill.errors import UserError
from rankdistill.sample import SamplingOptions
from rankdistill.sample.endpoint import EndpointWriter
from rankdistill.schema import EndpointConfig
from rankdistill.store import Store

pytestmark = pytest.mark.usefixtures("quick_retries")


def says(question: str) -> Any:
    return (f"It is {question}.",)


def written_by(*servers: FakeEndpoint, each: int = 2, **changes: Any) -> EndpointWriter:
    settings = {
        "urls": [server.url for server in servers], "model": "judge-1", "revision": None,
        "key_variable": "OPENAI_API_KEY", "chat_template_kwargs": None,
        "max_response_tokens": None, "concurrency": 8, "requests_per_minute": None,
        "timeout_s": 5.0, "retries": 3, "dollars_per_million_input_tokens": 0.0,
        "dollars_per_million_output_tokens": 2.0, **changes,
    }  # fmt: skip
    options = SamplingOptions(each, 0.7, 0.9, 0, 64, seed=3)
    return EndpointWriter(EndpointConfig(**settings), options)


REQUESTS: Any = [(f"p{n}", [{"role": "user", "content": f"What is {n}?"}]) for n in range(20)]


def texts(writer: EndpointWriter, requests: Any = REQUESTS) -> tuple[dict[str, list[str]], Counter]:
    found, counts = {}, Counter[str]()
    with writer:
        for name, responses, took in writer.write(requests, "teacher"):
            found[name] = [response["text"] for response in responses]
            counts.update(took)
    return found, counts


TRUE = {name: [f"It is {messages[0]['content']}."] * 2 for name, messages in REQUESTS}


def test_every_prompt_gets_its_responses_with_seeds_of_their_own():
    with FakeEndpoint(says) as server:
        found, counts = texts(written_by(server))
        first = {(b["messages"][0]["content"], b["seed"]) for b in server.bodies}
        texts(written_by(server, each=3), REQUESTS[:1])
        again = [body["seed"] for body in server.bodies[40:]]
    assert found == TRUE
    assert counts["calls"] == 40 and counts["dollars"] == pytest.approx(40 * 7 * 2e-6)
    assert len({seed for _, seed in first}) == 40 and server.most_in_flight <= 8
    # The first responses do not depend on how many are asked for.
    assert len(again) == 3 and {s for q, s in first if q == "What is 0?"} < set(again)
    body = server.bodies[0]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 0.9, 64)
    assert "top_k" not in body and "chat_template_kwargs" not in body


def test_every_kind_of_trouble_loses_nothing_and_an_empty_answer_is_asked_again():
    troubles = [429, 500, "cut", "html", "slow", 503, "empty", None]
    seen, lock = Counter[str](), threading.Lock()

    def trouble(number: int, question: str) -> Any:
        with lock:
            seen[question] += 1
            kind = troubles[int(question.split()[-1][:-1]) % len(troubles)]
            return kind if seen[question] == 1 and kind != "empty" else None

    def brain(question: str) -> Any:
        empty = seen[question] == 1 and int(question.split()[-1][:-1]) % len(troubles) == 6
        return ("",) if empty else says(question)

    with FakeEndpoint(brain, trouble) as server:
        found, counts = texts(written_by(server))
    assert found == TRUE
    assert counts["retries"] > 0 and counts["not_in_form"] > 0 and "set_aside" not in counts


def test_what_cannot_be_had_is_left_out_and_counted():
    ways: dict[str, Any] = {
        "What is 1?": {"message": {"content": "Half"}, "finish_reason": "content_filter"},
        "What is 2?": {"message": {"content": "Whole", "reasoning_content": "Hm."},
                       "finish_reason": "stop"},
        "What is 3?": {"message": {"content": None, "reasoning": "Hm"}, "finish_reason": "length"},
        "What is 4?": {"choices": "none"},
    }  # fmt: skip
    with FakeEndpoint(lambda q: ways.get(q) or says(q)) as server:
        found, counts = texts(written_by(server), REQUESTS[:6])
    assert found["p1"] == found["p4"] == [] and counts["set_aside"] == 4
    assert found["p2"] == ["<think>\nHm.\n</think>\n\nWhole"] * 2
    assert found["p3"] == ["<think>Hm"] * 2 and found["p5"] == TRUE["p5"]


def test_an_outage_keeps_what_was_written_and_a_restart_asks_for_the_rest():
    down = threading.Event()

    def trouble(number: int, question: str) -> Any:
        if number > 18:
            down.set()
        return 503 if down.is_set() else None

    found = {}
    with FakeEndpoint(says, trouble) as server:
        stopped = r"stopped answering \(503.*what was written is kept"
        with written_by(server) as writer, pytest.raises(UserError, match=stopped):
            for name, responses, _ in writer.write(REQUESTS, "teacher"):
                found[name] = [response["text"] for response in responses]
        assert 0 < len(found) < 20
        time.sleep(0.3)  # what is still on its way
        down.clear()
        server.trouble = lambda number, question: None
        asked = len(server.requests)
        more, _ = texts(written_by(server), [r for r in REQUESTS if r[0] not in found])
        assert len(server.requests) - asked == 2 * (20 - len(found))
    assert {**found, **more} == TRUE


def test_urls_share_the_requests_and_one_that_falls_out_loses_nothing():
    with FakeEndpoint(says, about={"root": "a"}) as one, FakeEndpoint(says, about=one.about) as two:
        with written_by(one, two) as writer:
            said = writer.check()
        assert said["served"] == {s.url: {"id": "judge-1", "root": "a"} for s in (one, two)}
        assert said["seeded"]
        two.trouble = lambda number, question: 500
        found, counts = texts(written_by(one, two))
        assert found == TRUE and counts["retries"] > 0 and len(two.requests) > 1


@pytest.mark.parametrize(
    ("servers", "changes", "told"),
    [
        ([{"key": KEY}], {}, "OPENAI_API_KEY .* is not set"),
        ([{"model": "judge-10"}], {}, r"no model 'judge-1'.*did you mean 'judge-10'"),
        ([{"model": "x", "about": None}], {}, r"no model 'judge-1'"),
        ([{"about": {"root": "a"}}, {"about": {"root": "b"}}], {}, "serve different models"),
        ([{}, {"about": None}], {}, "does not say what it serves"),
        ([{"refuses": ["temperature"]}], {}, "refuses what responses are drawn by.*temperature"),
        ([], {"urls": ["http://127.0.0.1:9/v1"]}, "can't be reached"),
    ],
)
def test_start_up_refuses(servers, changes, told):
    with ExitStack() as stack:
        running = [stack.enter_context(FakeEndpoint(says, **options)) for options in servers]
        writer = stack.enter_context(written_by(*running, **changes))
        with pytest.raises(UserError, match=told):
            writer.check()


def test_a_server_that_takes_no_seed_is_asked_without():
    with FakeEndpoint(says, refuses=["seed", "max_tokens"]) as server:
        with written_by(server) as writer:
            assert writer.check()["seeded"] is False
            next(writer.write(REQUESTS[:1], "teacher"))
        body = server.bodies[-1]
    assert "seed" not in body and "max_tokens" not in body and body["max_completion_tokens"] == 64


def test_a_served_teacher_writes_and_judges_a_whole_run(monkeypatch, tmp_path, teacher):
    """Prompts, lessons, a response in each group, corrections, verdicts; another URL: nothing."""

    def brain(question: str) -> Any:
        if "Rate the response" in question:
            return "ten" if "Fine" in shown(question, "RESPONSE") else "two"
        return ("Fine.",)

    def arguments(server: FakeEndpoint, *more: str) -> list[str]:
        return [
            "recipe=served_teacher", *TINY[3:], "sample.responses_per_prompt=2",
            f"student.path={teacher}", "student.precision=float32", "teacher.precision=float32",
            "warmup.responses_per_step=4", "warmup.responses_per_prompt=2",
            "eval.quick.sharpening_control=false", f"sample.endpoint.urls=[{server.url}]",
            "sample.endpoint.model=judge-1", "sample.endpoint.concurrency=4",
            "sample.teacher_revision=true", "prompts.augment.requests=2", *more,
        ]  # fmt: skip

    with FakeEndpoint(brain) as server:
        folder = run_here(monkeypatch, tmp_path, *arguments(server))
        assert server.requests.count("Say yes.") >= 2
    with FakeEndpoint(brain) as moved:
        run_here(monkeypatch, tmp_path, *arguments(moved))
        assert set(moved.requests) <= {"Say yes.", *(q for q in moved.requests if "A test." in q)}
        two = run_by_two(tmp_path / "two", *arguments(moved))
    losses = [
        [row["loss"] for row in json.loads(file.read_text())["training_history"] if "loss" in row]
        for file in (folder / "metrics.json", two / "metrics.json")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4) and len(losses[0]) > 1
    metrics = json.loads((folder / "metrics.json").read_text())
    assert "teacher" not in metrics["models"] and metrics["teacher"] is None
    stages = [s for s in metrics["stages"] if s["stage"] == "sample" and "teacher" in s["what"]]
    counted = [s["counts"] for s in stages]
    # New prompts, in groups, lessons, measured, corrections.
    assert [c["responses"] for c in counted] == [2, 6, 12, 3, 9]
    found = Store().find(stages[0]["key"])
    assert found is not None
    manifest = found.manifest
    assert manifest["identity"]["model"] == {"served": "judge-1", "revision": None}
    assert manifest["counts"]["served"] == {server.url: {"id": "judge-1"}}


def test_an_endpoint_without_a_task_or_an_address_is_refused(monkeypatch, capsys, tmp_path):
    def told(*more: str) -> str:
        given = ["sample.endpoint.model=judge-1", "warmup=none", *more]
        return refusal(monkeypatch, capsys, tmp_path, "recipe=likelihood", *given)

    url = "sample.endpoint.urls=[http://127.0.0.1:9/v1]"
    assert "the teacher writes nothing" in told(url)
    assert "give sample.endpoint.urls" in told("sample.teacher_response=true")
    assert "no URL" in told("sample.teacher_response=true", "sample.endpoint.urls=[localhost]")
    twice = "sample.endpoint.urls=[http://127.0.0.1:9/v1,http://127.0.0.1:9/v1]"
    assert "names an address twice" in told("sample.teacher_response=true", twice)
    given = ["recipe=served_teacher", "sample.endpoint.urls=[]"]
    assert "'sample.endpoint.urls[0]' not found" in refusal(monkeypatch, capsys, tmp_path, *given)
