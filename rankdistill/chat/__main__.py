"""``python -m rankdistill.chat RUN [--against RUN2]``: talk to a student, or to two at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rankdistill import shell

PROMPT = "\n> "


@shell.says_mistakes
def main(arguments: Sequence[str] | None = None) -> int:
    """Talks until the input ends; exit code 2 on a person's mistake."""
    given = _parser().parse_args(arguments)
    named = [given.run] + ([given.against] if given.against else [])
    for name in named:
        if not _is_url(name):
            shell.check_run_folder(Path(name))

    from rankdistill.chat.conversation import HELP, Speaker, converse
    from rankdistill.console import console, quiet, say
    from rankdistill.http_client import client
    from rankdistill.serve.talk import served_model

    quiet()
    sampling: dict[str, Any] = {"temperature": given.temperature, "max_tokens": given.max_tokens}
    try:
        with ExitStack() as stack:
            speakers = []
            for name, url, model in _served(named, stack):
                http = stack.enter_context(client(url))
                speakers.append(Speaker(name, http, model or served_model(http)))
            say(f"[dim]{' and '.join(s.name for s in speakers)}. {HELP}[/]")
            converse(speakers, _lines(), console, sampling)
    except KeyboardInterrupt:
        print()
    return 0


def _served(named: Sequence[str], stack: ExitStack) -> Iterator[tuple[str, str, str | None]]:
    """Name, API and model of what the person named; a run is served as long as the stack lasts."""
    from rankdistill.console import say
    from rankdistill.export import current_export, open_source
    from rankdistill.serve.serving import Server, Serving, free_port, server

    runs = {name: open_source(Path(name)) for name in named if not _is_url(name)}
    share = _share(len(runs)) if runs and server() == "vllm" else []
    for name in named:
        if _is_url(name):
            yield name, name.rstrip("/"), None
            continue
        source = runs[name]
        say(f"[dim]{name}: loading ...[/]")
        model = current_export(source)
        serving = Serving(model, "127.0.0.1", free_port(), source.name, share)
        stack.enter_context(Server(serving))
        yield name, serving.url, serving.asked_for


def _share(engines: int) -> list[str]:
    """Engines beside each other share a GPU."""
    import torch

    if engines < 2 or not torch.cuda.is_available():
        return []
    return ["--gpu-memory-utilization", f"{0.85 / engines:.2f}"]


def _is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def _lines() -> Iterator[str]:
    """What the person types, or what comes through a pipe."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    import readline  # noqa: F401  the arrow keys

    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            return


def _parser() -> argparse.ArgumentParser:
    parser = shell.parser(
        "chat",
        "Talk to a run's student in the terminal; it is served as long as that lasts.",
    )
    parser.add_argument("run", help="a finished run's folder, or the URL of a served model's API")
    parser.add_argument("--against", metavar="RUN", help="a second one, which answers beside it")
    parser.add_argument(
        "--temperature",
        metavar="T",
        type=float,
        default=1.0,
        help="0 takes the likeliest token (1)",
    )
    parser.add_argument(
        "--max-tokens", metavar="N", type=int, default=256, help="that an answer may have (256)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(shell.run(main))
