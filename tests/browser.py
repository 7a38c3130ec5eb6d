"""A headless Chromium, driven by its DevTools protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-port=0", "--remote-allow-origins=*",
]  # fmt: skip
KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Enter": 13}
SHIFT = 8


def found() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page."""

    def __init__(self, folder: Path, url: str, size: str = "1280,800") -> None:
        from websockets.sync.client import connect

        command = [str(found()), *FLAGS, f"--user-data-dir={folder}", f"--window-size={size}", url]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._number = 0
        self.errors: list[str] = []
        self._dragged: dict[str, Any] = {}
        self._open = ExitStack()
        socket = connect(self._page(folder), max_size=None, proxy=None)
        self._socket = self._open.enter_context(socket)
        self.ask("Runtime.enable")
        self.until("document.body && document.body.dataset.ready === 'yes'")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: Any) -> None:
        self._open.close()
        self._process.terminate()
        self._process.wait(timeout=20)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            told = json.loads(self._socket.recv(timeout=60))
            if told.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(told["params"]["exceptionDetails"]))
            if told.get("method") == "Input.dragIntercepted":
                self._dragged = told["params"]["data"]
            if told.get("id") == self._number:
                assert "error" not in told, told
                return told["result"]

    def value(self, expression: str) -> Any:
        result = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < end, expression
            time.sleep(0.05)

    def press(self, key: str, modifiers: int = 0) -> None:
        code = KEYS.get(key, ord(key[0].upper()))
        event: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        text = {"text": key} if len(key) == 1 else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **event)

    def drag(self, source: str, target: str) -> None:
        """By the mouse, from the top of one element to that of another."""
        self.ask("Input.setInterceptDrags", enabled=True)
        where = "(r => [r.left + r.width / 2, r.top + 12])(document.querySelector(%r)"
        where += ".getBoundingClientRect())"
        x, y = self.value(where % source)
        to_x, to_y = self.value(where % target)
        mouse = {"button": "left", "clickCount": 1}
        self.ask("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, **mouse)
        for step in (4, 8, 16):
            at = {"x": x + step, "y": y + step, "buttons": 1}
            self.ask("Input.dispatchMouseEvent", type="mouseMoved", button="left", **at)
        end = time.monotonic() + 20
        while not self._dragged and time.monotonic() < end:
            self.value("1")
        for kind in ("dragEnter", "dragOver", "drop"):
            self.ask("Input.dispatchDragEvent", type=kind, x=to_x, y=to_y, data=self._dragged)
        self.ask("Input.dispatchMouseEvent", type="mouseReleased", x=to_x, y=to_y, **mouse)

    def screenshot(self, to: Path) -> None:
        data = self.ask("Page.captureScreenshot", format="png")["data"]
        to.write_bytes(base64.b64decode(data))

    def _page(self, folder: Path) -> str:
        import httpx

        port_file = folder / "DevToolsActivePort"
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if port_file.is_file() and (lines := port_file.read_text().splitlines()):
                at = f"http://127.0.0.1:{lines[0]}/json/list"
                for target in httpx.get(at, trust_env=False).json():
                    if target["type"] == "page" and target["url"].startswith("http"):
                        return target["webSocketDebuggerUrl"]
            time.sleep(0.05)
        raise AssertionError("Chromium did not open the page")
