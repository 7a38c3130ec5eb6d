"""The review page: its session, its HTTP API, who may use it, and a person's hands in Chromium."""

from __future__ import annotations

import http.client
import json
import math
import re
import resource
import socket
import threading
from pathlib import Path

import browser
import pytest

from rankdistill.errors import UserError
from rankdistill.rank.existing import load_groups
from rankdistill.rank.write import recorded_tokenizer, write_table
from rankdistill.review.__main__ import main
from rankdistill.review.server import ReviewServer
from rankdistill.review.session import Review

EVIL = '<img src=x onerror="document.body.dataset.hacked=1"></pre><script>alert(1)</script>'


def group(prompt_id: str, *texts: str) -> dict:
    responses = [
        {
            "text": text, "token_ids": [i], "finish_reason": "stop", "source": "student",
            "scores": {"likelihood": -0.5 * i, "judge": 1 - i / 2}, "score": -float(i), "rank": i,
        }
        for i, text in enumerate(texts)
    ]  # fmt: skip
    ballots = [
        {"scorer": "judge", "shown": [0, 1], "ranks": [0, 1]},
        {"scorer": "judge", "shown": [1, 0], "ranks": [0, 1]},
    ]
    messages = [{"role": "user", "content": f"Question {prompt_id}: which is best? {EVIL}"}]
    return {
        "prompt_id": prompt_id, "split": "train", "messages": messages, "responses": responses,
        "ballots": ballots,
    }  # fmt: skip


@pytest.fixture
def ranked(tmp_path) -> Path:
    rows = [group("a", "first", "second", EVIL), group("b", "one", "two"), group("c", "x", "y")]
    write_table(rows, tmp_path / "run" / "ranked", "the digest")
    return tmp_path / "run"


@pytest.fixture
def server(ranked):
    with ReviewServer(Review(ranked)) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()


def ask(server, method: str, path: str, body=None, **headers):
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)
    headers = {"host": server.url.split("/")[2], "x-token": server.token, **headers}
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    return answer.status, json.loads(text) if text.startswith("{") else text


def test_ranks_are_kept_at_once_and_survive_a_restart(ranked):
    review = Review(ranked)
    assert review.shown(0)["ranks"] is None and sorted(review.shown(0)["order"]) == [0, 1, 2]
    review.save(0, [5, 0, 5])
    review.save(1, [0, 1])
    review.save(1, [1, 0])
    with review.journal.open("a") as file:
        file.write('{"prompt_id": "c", "te')  # a kill in the middle of a line
    again = Review(ranked)
    assert again.ranks == {0: [1, 0, 1], 1: [1, 0]}
    assert again.shown(0)["order"][0] == 1
    for ranks in ([0, 1], [0, 1, -1], [0, 1, 0.5], [0, 1, True]):
        with pytest.raises(ValueError, match="one rank"):
            again.save(0, ranks)


def test_votes_that_were_shown_before_a_ranking_are_recorded(ranked):
    review = Review(ranked)
    review.save(0, [0, 1, 2])
    assert "scores" in review.shown(0)["responses"][0] and review.informed == set()
    review.save(0, [2, 1, 0])  # again, with the votes in view
    review.shown(1, votes=True)
    review.save(1, [0, 1])
    review.save(2, [0, 1])
    assert review.informed == {0, 1} == Review(ranked).informed
    lines = [json.loads(line) for line in review.journal.read_text().splitlines()]
    assert [line["votes_shown"] for line in lines] == [False, True, True, False]


def test_a_line_after_a_torn_one_is_not_lost(ranked):
    review = Review(ranked)
    review.save(2, [0, 1])
    whole = review.journal.read_bytes()
    review.journal.write_bytes(whole + whole[:20])  # the power failed in the middle of a line
    again = Review(ranked)
    again.save(1, [1, 0])
    assert Review(ranked).ranks == again.ranks == {2: [0, 1], 1: [1, 0]}


def test_a_line_that_is_no_ranking_is_left_out(ranked):
    review = Review(ranked)
    review.save(2, [0, 1])
    whole = review.journal.read_bytes()
    given = (b'"01"', b"[0]", b"[0, -1]", b'[0, "1"]', b"[0.0, 1.0]", b"[true, 0]", b"null", b"{}")
    lines = [whole.replace(b"[0, 1]", ranks) for ranks in given]
    lines += [b"\xff\xfe\n", b"\0" * 512 + b"\n", b"[" * 100_000 + b"\n", b"[1]\n", b"5\n"]
    review.journal.write_bytes(b"".join([*lines, whole, *lines]))
    again = Review(ranked)
    assert again.ranks == {2: [0, 1]} and again.write().is_dir()


def test_a_ranking_that_finds_no_space_is_one_sentence_and_no_half_line(ranked):
    review = Review(ranked)
    review.save(2, [0, 1])
    whole = review.journal.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 5, before[1]))
    try:
        with pytest.raises(UserError, match=r"review\.jsonl' cannot be written \("):
            review.save(1, [1, 0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert review.journal.read_bytes() == whole and review.ranks == {2: [0, 1]}


def test_a_set_that_changed_does_not_get_the_ranks_of_the_old_one(ranked):
    Review(ranked).save(1, [1, 0])
    write_table([group("b", "one", "another")], ranked / "ranked")
    assert Review(ranked).ranks == {}


def test_human_ranks_are_one_more_scorer(ranked):
    review = Review(ranked)
    review.save(0, [1, 0, 1])
    rows = {row["prompt_id"]: row for row in load_groups(review.write())}
    assert review.written_to == ranked / "ranked-reviewed"
    assert recorded_tokenizer(review.written_to / "train.parquet") == "the digest"
    assert [r["scores"]["human"] for r in rows["a"]["responses"]] == [-1.0, 0.0, -1.0]
    assert all(math.isnan(r["scores"]["human"]) for r in rows["b"]["responses"])
    assert rows["a"]["responses"][0]["scores"]["likelihood"] == 0.0
    from rankdistill.rank.combine import combine
    from rankdistill.rank.diagnostics import diagnose

    combined = combine([rows["a"]], {"human": 1.0}, "mean")
    assert [r["score"] for r in combined[0]["responses"]] == [-1.0, 0.0, -1.0]
    found = diagnose(list(rows.values()))["agreement"]
    assert {(pair["a"], pair["human"]) for pair in found} >= {("human", True)}


def test_the_api(server):
    status, told = ask(server, "GET", "/api/set")
    assert (status, told["count"], told["reviewed"]) == (200, 3, [])
    _, shown = ask(server, "GET", "/api/groups/0")
    assert shown["responses"] == [{"text": text} for text in ("first", "second", EVIL)]
    assert shown["duels"] == {} and not shown["votes"]
    _, shown = ask(server, "GET", "/api/groups/1?votes=1")
    assert shown["duels"] == {"judge": [[0, 1], [1, 0]]}
    assert "judge" in shown["responses"][0]["scores"]
    token = {"x-token": server.token}
    assert ask(server, "POST", "/api/groups/0", {"ranks": [2, 1, 0]}, **token) == (
        200, {"reviewed": [0]},
    )  # fmt: skip
    assert ask(server, "GET", "/api/groups/0")[1]["votes"]  # it is ranked
    assert ask(server, "POST", "/api/groups/0", {"ranks": [2]}, **token)[0] == 400
    assert ask(server, "POST", "/api/groups/9", {"ranks": [2]}, **token)[0] == 404
    assert ask(server, "GET", "/api/groups/9")[0] == 404 == ask(server, "GET", "/../etc")[0]
    status, told = ask(server, "POST", "/api/write", {}, **token)
    assert status == 200 and Path(told["to"]).is_dir()


def test_only_this_machine_and_only_its_own_page(server):
    assert server.server_address[0] == "127.0.0.1"
    for path in ("/", "/api/set", "/api/groups/0"):
        assert ask(server, "GET", path, host="evil.example:80")[0] == 403
    for headers in ({"x-token": ""}, {"x-token": "gu\xe9ss"}, {"host": "evil.example"}):
        assert ask(server, "POST", "/api/groups/0", {"ranks": [2, 1, 0]}, **headers)[0] == 403
    assert server.review.ranks == {}


def test_who_does_not_know_the_address_reads_nothing(server):
    assert server.url.endswith(f"/?token={server.token}")
    for path in ("/", "/?token=", "/?token=guess", "/api/set", "/api/groups/0"):
        status, told = ask(server, "GET", path, **{"x-token": "guess"})
        assert status == 403 and server.token not in str(told) and "first" not in str(told)
    # The page itself takes the token from its address alone: a header is no link to click on.
    assert ask(server, "GET", "/")[0] == 403


def raw(server, *lines: str, body: bytes = b"") -> bytes:
    with socket.create_connection(server.server_address[:2], timeout=20) as connection:
        head = [*lines, f"host: {server.url.split('/')[2]}"]
        connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("length", ["-1", "abc", "99999999999", "1000001", "+1", "1_0", ""])
def test_a_body_is_refused_before_it_is_read(server, length):
    line, token = "POST /api/groups/0 HTTP/1.1", f"x-token: {server.token}"
    answer = raw(server, line, token, f"content-length: {length}")
    assert answer.startswith((b"HTTP/1.1 411", b"HTTP/1.1 413"))
    assert raw(server, line, f"content-length: {length}").startswith(b"HTTP/1.1 403")
    assert server.review.ranks == {}


def test_a_body_that_is_too_deep_and_a_disk_that_is_full(server, monkeypatch):
    deep = b"[" * 100_000
    line, token = "POST /api/groups/0 HTTP/1.1", f"x-token: {server.token}"
    answer = raw(server, line, token, f"content-length: {len(deep)}", body=deep)
    assert answer.startswith(b"HTTP/1.1 400")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Review, "save", full)
    status, told = ask(server, "POST", "/api/groups/0", {"ranks": [2, 1, 0]})
    assert status == 507 and "No space left" in told["error"]


def test_the_page_is_told_why_a_ranking_is_not_kept(server):
    server.review.journal.mkdir()
    status, told = ask(server, "POST", "/api/groups/0", {"ranks": [2, 1, 0]})
    assert status == 507 and "cannot be written" in told["error"]
    assert not server.review.ranks


def test_the_page_needs_nothing_from_the_network(server):
    _, page = ask(server, "GET", "/?token=" + server.token)
    assert not re.search(r"(src|href)=|https?://|@import|url\(", page)


@pytest.mark.skipif(browser.found() is None, reason="no Chromium on this machine")
def test_a_person_ranks_in_a_browser(server, tmp_path):
    pytest.importorskip("websockets")
    texts = "[...document.querySelectorAll('.card pre')].map(p => p.textContent)"
    with browser.Browser(tmp_path / "profile", server.url) as page:
        order = server.review.shown(0)["order"]
        named = ["first", "second", EVIL]
        assert page.value(texts) == [named[i] for i in order]
        assert page.value("document.querySelectorAll('img, .card script').length") == 0
        votes = "document.querySelector('.votes').textContent"
        assert page.value(votes) == ""
        assert page.value("document.querySelector('.rank').textContent") == "\u2013"
        # By keys: what stands first goes to the end, then ties with the one before it.
        page.press("ArrowRight", browser.SHIFT)
        page.press("ArrowRight", browser.SHIFT)
        assert page.value(texts) == [named[i] for i in [*order[1:], order[0]]]
        page.press("=")
        shown = "[...document.querySelectorAll('.rank')].map(r => r.textContent)"
        assert page.value(shown) == ["1", "2", "2"]
        page.press("Enter")
        page.until("document.getElementById('where').textContent === 'Prompt 2 of 3'")
        expected = [0, 0, 0]
        expected[order[1]], expected[order[2]], expected[order[0]] = 0, 1, 1
        assert server.review.ranks == {0: expected}
        # By the mouse: the second card is dropped on the first.
        before = server.review.shown(1)["order"]
        page.drag(".card:nth-child(2)", ".card:nth-child(1)")
        page.until("document.getElementById('state').textContent === 'not saved'")
        page.value("document.getElementById('save').click()")
        page.until("document.getElementById('state').textContent === 'saved'")
        assert server.review.ranks[1][before[1]] == 0 and server.review.ranks[1][before[0]] == 1
        assert "likelihood" in page.value(votes) and "judge" in page.value(votes)
        assert server.review.informed == set()
        page.press("u")
        page.until("document.getElementById('where').textContent === 'Prompt 3 of 3'")
        page.press("v")
        page.until(f"{votes}.includes('judge')")
        page.press("Enter")
        page.until("document.getElementById('state').textContent === 'saved'")
        assert server.review.informed == {2}
        assert page.value("document.body.dataset.hacked") is None
        page.screenshot(tmp_path / "page.png")
        assert page.errors == [] and (tmp_path / "page.png").stat().st_size > 10_000


def test_the_command_writes_the_set_when_it_is_interrupted(ranked, monkeypatch, capsys):
    def interrupted(self, poll_interval):
        self.review.save(2, [1, 0])
        raise KeyboardInterrupt

    monkeypatch.setattr(ReviewServer, "serve_forever", interrupted)
    assert main([str(ranked)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"3 prompts, 0 reviewed: http://127.0.0.1:\d+/", told)
    assert "1 prompts with human ranks" in told and (ranked / "ranked-reviewed").is_dir()


def test_there_is_no_set(tmp_path, capsys):
    assert main([str(tmp_path / "missing")]) == 2
    assert "There is no ranked set" in capsys.readouterr().err
