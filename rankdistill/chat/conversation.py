"""A conversation with one or two students at once, and what the terminal shows of it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from rankdistill.errors import UserError
from rankdistill.serve.talk import answer

HELP = "/new begins again, /exit (or Ctrl-D) ends; every other line is for the student."


@dataclass
class Speaker:
    """A served student and its side of the conversation."""

    name: str
    http: httpx.Client
    model: str
    messages: list[dict[str, str]] = field(default_factory=list)
    saying: str = ""
    """Its answer as far as it has come."""
    mistake: str = ""
    """Why there is no answer."""

    def respond(self, question: str, sampling: dict[str, Any]) -> Iterable[str]:
        """The pieces of its answer; the turn is kept when the answer is complete."""
        self.saying, self.mistake = "", ""
        asked = [*self.messages, {"role": "user", "content": question}]
        try:
            for piece in answer(self.http, self.model, asked, **sampling):
                self.saying += piece
                yield piece
            self.messages = [*asked, {"role": "assistant", "content": self.saying}]
        except UserError as error:
            self.mistake = str(error)


def converse(
    speakers: Sequence[Speaker], lines: Iterable[str], console: Console, sampling: dict[str, Any]
) -> None:
    """Answer every line until they end, or one says /exit.

    On a terminal two students write side by side; elsewhere one after the other, under its name.
    """
    for line in lines:
        question = line.strip()
        if question in ("/exit", "/quit"):
            return
        if question == "/new":
            for speaker in speakers:
                speaker.messages = []
        elif question == "/help":
            console.print(HELP, markup=False)
        elif question:
            show = _beside if len(speakers) > 1 and console.is_terminal else _below
            show(speakers, question, console, sampling)


def _below(
    speakers: Sequence[Speaker], question: str, console: Console, sampling: dict[str, Any]
) -> None:
    for speaker in speakers:
        if len(speakers) > 1:
            console.print(f"[{speaker.name}]", markup=False)
        for piece in speaker.respond(question, sampling):
            console.file.write(piece)
            console.file.flush()
        console.print(f"\n({speaker.mistake})" if speaker.mistake else "", markup=False)


def _beside(
    speakers: Sequence[Speaker], question: str, console: Console, sampling: dict[str, Any]
) -> None:
    def listen(speaker: Speaker) -> None:
        for _ in speaker.respond(question, sampling):
            pass

    threads = [threading.Thread(target=listen, args=(s,), daemon=True) for s in speakers]
    with Live(console=console, refresh_per_second=12, get_renderable=lambda: _panels(speakers)):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _panels(speakers: Sequence[Speaker]) -> Columns:
    panels = [
        Panel(Text(s.saying + (f"\n({s.mistake})" if s.mistake else "")), title=Text(s.name))
        for s in speakers
    ]
    return Columns(panels, equal=True, expand=True)
