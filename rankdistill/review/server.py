"""The page's server: this machine only, nothing from the network, no one else's page may use it.

GET  /?token=TOKEN          the page
GET  /api/set               {title, count, reviewed: [number, ...], to}
GET  /api/groups/<number>   see `Review.shown`; with ?votes=1 also of what nobody has ranked
POST /api/groups/<number>   {"ranks": [...]}
POST /api/write             {"to": folder}

Each names the token, the page in its address and the others in the header `x-token`: whoever else
works on this machine can ask the port, and must neither read nor rank.
"""

from __future__ import annotations

import json
import re
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Lock
from typing import Any

from rankdistill.errors import UserError
from rankdistill.review.session import Review

LOOPBACK = "127.0.0.1"
_LARGEST = 1_000_000


class ReviewServer(ThreadingHTTPServer):
    """Serves a review on loopback; `url` is the page.

    Requests must name this server as their host, which a page elsewhere that rebinds its name to
    127.0.0.1 does not, and the token, which only `url` has.
    """

    daemon_threads = True

    def __init__(self, review: Review, port: int = 0) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.review, self.token, self.lock = review, secrets.token_urlsafe(24), Lock()
        port = self.server_address[1]
        self.hosts = {f"{LOOPBACK}:{port}", f"localhost:{port}"}
        self.url = f"http://{LOOPBACK}:{port}/?token={self.token}"


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    timeout = 60.0

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        review = self.server.review
        if not self._known_host():
            return
        page, _, query = self.path.partition("?")
        given = query.removeprefix("token=") if page == "/" else self.headers.get("x-token")
        if not self._knows_token(given):
            return
        if page == "/":
            self._page()
        elif self.path == "/api/set":
            self._json(
                200,
                {
                    "title": review.title,
                    "count": len(review.groups),
                    "reviewed": sorted(review.ranks),
                    "to": str(review.written_to),
                },
            )
        elif (number := self._number(page)) is not None:
            with self.server.lock:
                shown = review.shown(number, votes=query == "votes=1")
            self._json(200, shown)
        else:
            self._json(404, {"error": "there is no such page"})

    def do_POST(self) -> None:
        # All that can be refused is, before anything of the body is read.
        if not self._known_host() or not self._knows_token(self.headers.get("x-token")):
            return
        size = self.headers.get("content-length") or ""
        if not re.fullmatch(r"[0-9]{1,9}", size) or self.headers.get("transfer-encoding"):
            return self._refuse(411, "say the length of the body")
        if int(size) > _LARGEST:
            return self._refuse(413, "too large")
        body = self.rfile.read(int(size))
        with self.server.lock:
            try:
                self._change(body)
            except UserError as error:
                self._json(507, {"error": str(error)})
            except OSError as error:
                self._json(507, {"error": f"it can't be kept: {error.strerror or error}"})

    def _change(self, body: bytes) -> None:
        review = self.server.review
        if self.path == "/api/write":
            return self._json(200, {"to": str(review.write())})
        number = self._number(self.path)
        if number is None:
            return self._json(404, {"error": "there is no such prompt"})
        try:
            review.save(number, json.loads(body)["ranks"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return self._json(400, {"error": str(error)})
        self._json(200, {"reviewed": sorted(review.ranks)})

    def _knows_token(self, given: str | None) -> bool:
        if secrets.compare_digest((given or "").encode(), self.server.token.encode()):
            return True
        self._refuse(403, "open the address that the command printed")
        return False

    def _refuse(self, status: int, why: str) -> None:
        """Answers and ends the connection, since a body may follow that nobody reads."""
        self.close_connection = True
        self._json(status, {"error": why})

    def _known_host(self) -> bool:
        if self.headers.get("host") in self.server.hosts:
            return True
        self._refuse(403, "this page is for this machine only")
        return False

    def _number(self, path: str) -> int | None:
        found = re.fullmatch(r"/api/groups/(\d{1,9})", path)
        number = int(found[1]) if found else -1
        return number if 0 <= number < len(self.server.review.groups) else None

    def _page(self) -> None:
        nonce = secrets.token_urlsafe(16)
        page = (files("rankdistill.review") / "page.html").read_text(encoding="utf-8")
        page = page.replace("%NONCE%", nonce).replace("%TOKEN%", self.server.token)
        policy = (
            f"default-src 'none'; connect-src 'self'; img-src data:; style-src 'nonce-{nonce}'; "
            f"script-src 'nonce-{nonce}'; frame-ancestors 'none'; base-uri 'none'; "
            "form-action 'none'"
        )
        self._send(200, page.encode(), "text/html; charset=utf-8", policy)

    def _json(self, status: int, content: Any) -> None:
        data = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
        self._send(status, data, "application/json")

    def _send(self, status: int, data: bytes, kind: str, policy: str = "") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.send_header("cache-control", "no-store")
        self.send_header("x-content-type-options", "nosniff")
        self.send_header("referrer-policy", "no-referrer")
        if policy:
            self.send_header("content-security-policy", policy)
        self.end_headers()
        self.wfile.write(data)
