"""``python -m rankdistill.search RUN [QUERY]``: what is found, before and after the re-ranker."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rankdistill import shell


@shell.says_mistakes
def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the passages found for each query; exit code 2 on a person's mistake."""
    parser = shell.parser(
        "search",
        "Search the passages of a run of recipe=reranker: the first ones in the order of the first "
        "stage, and in that of the re-ranker.",
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("query", nargs="?", help="without it, every line of the input is one")
    parser.add_argument("--top", metavar="N", type=int, default=10, help="of each order (10)")
    parser.add_argument(
        "--export",
        metavar="FOLDER",
        type=Path,
        help="write the re-ranker for sentence-transformers' CrossEncoder and vLLM's /score",
    )
    given = parser.parse_args(arguments)
    shell.check_run_folder(given.run)

    from rankdistill.console import console, quiet
    from rankdistill.search.cross_encoder import save_cross_encoder
    from rankdistill.search.reranked import RerankedSearch

    quiet()
    if given.export is not None:
        save_cross_encoder(given.run, given.export)
        print(f"{given.export}: a cross-encoder")
        return 0
    search = RerankedSearch.open(given.run)
    for query in [given.query] if given.query else filter(str.strip, sys.stdin):
        for line in search.told(query.strip(), given.top, console.width):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(shell.run(main))
