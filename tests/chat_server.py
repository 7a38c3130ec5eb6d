"""An OpenAI-compatible chat server that echoes, as a process: `python chat_server.py PORT NAME`.

It streams word by word, says its name and the number of turns, and wants the key in VLLM_API_KEY.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def command(port: int, name: str) -> list[str]:
    """The arguments of the process."""
    return [sys.executable, __file__, str(port), name]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/health":
            return self._send(200, {})
        if self._refused():
            return None
        return self._send(200, {"data": [{"id": sys.argv[2]}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self._refused():
            return
        said = body["messages"][-1]["content"]
        if said == "too long":
            self._send(400, {"error": {"message": "the context is full"}})
            return
        text = f"{sys.argv[2]} turn {len(body['messages'])}: {said}"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for piece in text.split(" "):
            chunk = {"choices": [{"delta": {"content": piece + " "}}]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")

    def _refused(self) -> bool:
        key = os.environ.get("VLLM_API_KEY")
        if key and self.headers.get("authorization") != f"Bearer {key}":
            self._send(401, {"error": "no"})
            return True
        return False

    def _send(self, status: int, answer: object) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
