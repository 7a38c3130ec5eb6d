"""An OpenAI-compatible endpoint on loopback that does what a test scripts."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Collection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Brain = Callable[[str], Any]
"""The question's text in, the verdict out: a rating's word, first, second, tie, an order."""
KEY = "sk-secret-for-tests"


class FakeEndpoint:
    """Serves `model` as a judge with a brain, and misbehaves as `trouble` says.

    Args:
        brain: Decides; what it returns is put into the schema's one property. A tuple (text,) is
            the whole answer as it is; a dictionary is the whole choice.
        trouble: (number of the request, question) -> a status, "cut", "slow", "html", or None.
        logprobs: (verdict) -> the likeliest alternatives to it with their probabilities.
        about: What `/models` says of the model beside its name; None: it says nothing at all.
        refuses: Arguments that it answers with a 400 that names them.
        reads: (prompt, how many of the likeliest) -> vLLM's `prompt_logprobs`, or a whole answer,
            of /completions; None: there is no such page.
    """

    def __init__(
        self,
        brain: Brain,
        trouble: Callable[[int, str], Any] = lambda number, question: None,
        *,
        key: str | None = None,
        model: str = "judge-1",
        logprobs: Callable[[str], dict[str, float]] | None = None,
        about: dict[str, Any] | None = {},  # noqa: B006  (never written to)
        refuses: Collection[str] = (),
        reads: Callable[[Any, int], Any] | None = None,
    ) -> None:
        self.reads, self.told = reads, f"trouble with {KEY}"
        self.about, self.refuses = about, refuses
        self.brain, self.trouble, self.key, self.model = brain, trouble, key, model
        self.logprobs = logprobs
        self.requests: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()

    def __enter__(self) -> FakeEndpoint:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                if endpoint.about is None:
                    return self._send(404, {"error": {"message": "no such page"}})
                self._send(200, {"data": [{"id": endpoint.model, **endpoint.about}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                read = "messages" not in body
                question = str(body["prompt"]) if read else body["messages"][-1]["content"]
                with endpoint.lock:
                    endpoint.requests.append(question)
                    endpoint.bodies.append(body)
                    number = len(endpoint.requests)
                    endpoint.in_flight += 1
                    endpoint.most_in_flight = max(endpoint.most_in_flight, endpoint.in_flight)
                try:
                    self._respond(body, question, number)
                finally:
                    with endpoint.lock:
                        endpoint.in_flight -= 1

            def _respond(self, body: dict, question: str, number: int) -> None:
                if endpoint.key and self.headers.get("authorization") != f"Bearer {endpoint.key}":
                    told = f"Incorrect API key provided: {self.headers.get('authorization')}"
                    return self._send(401, {"error": {"message": told}})
                if body["model"] != endpoint.model or ("prompt" in body and not endpoint.reads):
                    return self._send(404, {"error": {"message": "no such model"}})
                if refused := [name for name in endpoint.refuses if name in body]:
                    told = f"Unsupported parameter: {refused[0]}"
                    return self._send(400, {"error": {"message": told}})
                trouble = endpoint.trouble(number, question)
                if isinstance(trouble, int):
                    self._send(trouble, {"error": {"message": endpoint.told}})
                elif trouble == "cut":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                elif trouble == "html":
                    self._send(200, "<html>Bad gateway</html>")
                else:
                    if trouble == "slow":
                        time.sleep(0.4)
                    self._send(200, endpoint.answer(body, question))

            def _send(self, status: int, answer: Any) -> None:
                data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: Any) -> None:
                pass  # a client that gave up

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, body: dict[str, Any], question: str) -> dict[str, Any]:
        """A chat completion in the form that was asked for."""
        if "prompt" in body:
            assert self.reads is not None
            found = self.reads(body["prompt"], body["prompt_logprobs"])
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": 1}
            whole = {"choices": [{"prompt_logprobs": found}], "usage": usage}
            return found if isinstance(found, dict) else whole
        verdict = self.brain(question)
        usage = {"prompt_tokens": len(question) // 4, "completion_tokens": 7}
        if isinstance(verdict, dict):
            return {"choices": [verdict], "usage": usage}
        if isinstance(verdict, tuple):
            text = verdict[0]
        else:
            name = list(body["response_format"]["json_schema"]["schema"]["properties"])[-1]
            text = json.dumps({name: verdict})
        choice: dict[str, Any] = {"message": {"content": text}, "finish_reason": "stop"}
        if body.get("logprobs") and self.logprobs is not None:
            choice["logprobs"] = {"content": self._steps(text, str(verdict))}
        return {"choices": [choice], "usage": usage}

    def _steps(self, text: str, verdict: str) -> list[dict[str, Any]]:
        assert self.logprobs is not None
        steps = []
        for token in re.findall(r"\w+|\W+", text):
            options = self.logprobs(verdict) if token == verdict else {token: 0.0}
            top = [{"token": other, "logprob": logp} for other, logp in options.items()]
            steps.append({"token": token, "logprob": options[token], "top_logprobs": top})
        return steps


def shown(question: str, name: str) -> str:
    """The judged text between its marks; nothing in a question of another kind."""
    found = re.search(rf"<<<BEGIN {name} \w+>>>\n(.*?)\n<<<END {name} \w+>>>", question, re.DOTALL)
    return found[1] if found else ""
