"""``python -m rankdistill.export RUN``: a folder for the hub, vLLM and deployment platforms."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rankdistill import shell


@shell.says_mistakes
def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the folder, and pushes it where that is asked for; exit code 2 on a mistake."""
    given = _parser().parse_args(arguments)
    if not given.ranked:
        shell.check_run_folder(given.run)

    from rankdistill.console import quiet, say
    from rankdistill.export import ExportOptions, export, open_source, ranked_set
    from rankdistill.export.hub import check_push, push
    from rankdistill.export.source import EXPORT

    quiet()
    source = None
    if not given.ranked:
        source = open_source(given.run, trust_remote_code=given.trust_remote_code)
    if given.push is not None:
        check_push(given.push)
    if source is None:
        to = given.to or given.run / ranked_set.EXPORT
        name = given.push or f"{given.run.resolve().name}, ranked"
        ranked_set.export_ranked(given.run, to, name, given.license)
    else:
        to = given.to or source.folder / EXPORT
        export(source, to, ExportOptions(given.precision, given.quantize, given.push))
    say(f"[bold]export[/]  {to}")
    if given.push is not None:
        kind = "dataset" if given.ranked else "model"
        say(f"[bold]hub[/]     {push(to, given.push, private=not given.public, kind=kind)}")
    elif source is not None:
        say(f"[dim]python -m rankdistill.serve {given.run}   serves it[/]")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = shell.parser(
        "export",
        "Write a run's student as a folder that the hub, vLLM and a deployment "
        "platform take as it is: weights, tokenizer, model card, license, serving files.",
    )
    parser.add_argument(
        "run", type=Path, help="a finished run's folder; or a model's, or adapters'"
    )
    parser.add_argument(
        "--to", metavar="DIR", type=Path, help="folder that is written (RUN/export)"
    )
    parser.add_argument(
        "--precision",
        default="auto",
        metavar="{auto,float32,bfloat16,float16}",
        help="of the weights; auto is as trained (auto)",
    )
    parser.add_argument(
        "--quantize",
        default="none",
        metavar="{none,int8,awq-ready}",
        help="int8: torchao; awq-ready: a script and texts that make AWQ weights (none)",
    )
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run code that comes with a folder's model; a run has said so with its student",
    )
    parser.add_argument(
        "--push", metavar="user/name", help="upload it to the hub, with the token in HF_TOKEN"
    )
    parser.add_argument(
        "--public", action="store_true", help="make a new repository public; default: private"
    )
    parser.add_argument(
        "--ranked",
        action="store_true",
        help="the run's ranked set in place of its student, with a data card (RUN/ranked_export)",
    )
    parser.add_argument(
        "--license", metavar="ID", help="that the ranked set is given under, as the hub calls it"
    )
    return parser


if __name__ == "__main__":
    sys.exit(shell.run(main))
