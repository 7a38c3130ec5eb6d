"""``python -m rankdistill.serve RUN``: a run's student behind an OpenAI-compatible server."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rankdistill import shell
from rankdistill.http_client import KEY_VARIABLE
from rankdistill.serve.serving import Serving, check_serving, server

QUESTION = "Why is the sky blue?"
FIRST_TOKENS = 24


@shell.says_mistakes
def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until it is interrupted; exit code 2 on a person's mistake."""
    given, more = _split(sys.argv[1:] if arguments is None else list(arguments))
    shell.check_run_folder(given.run)

    from rankdistill.console import quiet, say
    from rankdistill.export import current_export, open_source
    from rankdistill.serve.serving import Server, check_port

    quiet()
    # `kill` and a container's stop end the server as Ctrl-C does, also where a script started us.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    try:
        source = open_source(given.run)
        serving = Serving(source.model, given.host, given.port, source.name, more)
        check_serving(serving)
        check_port(given.host, given.port)
        model = current_export(source)
        serving = Serving(model, given.host, given.port, source.name, more)
        say(f"[bold]serve[/]   {model} with {server()}, loading ...")
        with Server(serving) as running:
            _try(serving)
            say("[dim]Ctrl-C ends it.[/]")
            running.wait()
    except KeyboardInterrupt:
        print()
    return 0


def _try(serving: Serving) -> None:
    """Make a first request, and show how to make the next."""
    from rankdistill.console import console, say
    from rankdistill.http_client import client
    from rankdistill.serve.talk import answer

    with client(serving.url) as http:
        model = serving.asked_for
        messages = [{"role": "user", "content": QUESTION}]
        pieces = answer(http, model, messages, max_tokens=FIRST_TOKENS, temperature=0)
        text = "".join(pieces)
    say(f"[bold]ready[/]   {serving.url}\n")
    console.print(f"  > {QUESTION}\n  {' '.join(text.split())} ...\n", markup=False, soft_wrap=True)
    keyed = bool(os.environ.get(KEY_VARIABLE))
    console.print(_curl(serving.url, model, keyed), markup=False, soft_wrap=True)
    console.print(_python(serving.url, model, keyed), markup=False, soft_wrap=True)


def _curl(url: str, model: str, keyed: bool) -> str:
    key = ' -H "Authorization: Bearer $VLLM_API_KEY"' if keyed else ""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "{QUESTION}"}}]}}'
    return f"curl {url}/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'\n"


def _python(url: str, model: str, keyed: bool) -> str:
    key = 'os.environ["VLLM_API_KEY"]' if keyed else '"none"'
    return (
        ("import os\n" if keyed else "") + "from openai import OpenAI\n"
        f'client = OpenAI(base_url="{url}", api_key={key})\n'
        f'messages = [{{"role": "user", "content": "{QUESTION}"}}]\n'
        f'answer = client.chat.completions.create(model="{model}", messages=messages)\n'
        "print(answer.choices[0].message.content)\n"
    )


def _split(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own arguments, and after `--` those of the server."""
    own, more = arguments, []
    if "--" in arguments:
        at = arguments.index("--")
        own, more = arguments[:at], arguments[at + 1 :]
    parser = shell.parser(
        "serve",
        "Serve a run's student: vLLM's OpenAI-compatible server, or transformers' own "
        "where vLLM is not installed. On other addresses than this machine's, VLLM_API_KEY is the "
        "key that clients send.",
        usage="%(prog)s RUN [--host HOST] [--port PORT] [-- ARGUMENTS OF THE SERVER]",
    )
    parser.add_argument(
        "run", type=Path, help="a finished run's folder; or a model's, or adapters'"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine)"
    )
    parser.add_argument("--port", metavar="N", type=int, default=8000, help="to listen at (8000)")
    return parser.parse_args(own), more


if __name__ == "__main__":
    sys.exit(shell.run(main))
