"""``python -m rankdistill.review RANKED``: rank responses by hand, in a browser on this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rankdistill import shell
from rankdistill.errors import UserError


@shell.says_mistakes
def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until it is interrupted, then writes the set; exit code 2 on a person's mistake."""
    parser = shell.parser(
        "review",
        "Read a prompt's responses side by side and rank them, in a browser on this "
        "machine; the ranks become one more scorer, `human`. What other scorers say is shown after "
        "saving.",
    )
    parser.add_argument("ranked", type=Path, help="a run's folder, its ranked/, or a file")
    parser.add_argument(
        "--port", metavar="N", type=int, default=0, help="to listen at (any that is free)"
    )
    given = parser.parse_args(arguments)

    from rankdistill.review.server import ReviewServer
    from rankdistill.review.session import Review

    review = Review(given.ranked)
    try:
        server = ReviewServer(review, given.port)
    except OSError as error:
        raise UserError(f"port {given.port} can't be served ({error.strerror}).") from error
    print(f"{len(review.groups)} prompts, {len(review.ranks)} reviewed: {server.url}")
    try:
        print("Ctrl-C ends it and writes the set.", flush=True)
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    if review.ranks:
        seen = f", {len(review.informed)} of them after seeing votes" if review.informed else ""
        print(f"\n{review.write()}: {len(review.ranks)} prompts with human ranks{seen}")
    return 0


if __name__ == "__main__":
    sys.exit(shell.run(main))
