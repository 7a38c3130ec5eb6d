"""``python -m rankdistill.rank RANKED TO``: a ranked set for other tools."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rankdistill import shell


@shell.says_mistakes
def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the file and says what is in it; exit code 2 on a person's mistake."""
    parser = shell.parser(
        "rank",
        "Write a ranked set as TRL's preference pairs, UltraFeedback or JSONL.",
    )
    parser.add_argument("ranked", type=Path, help="a run's folder, its ranked/, or a file")
    parser.add_argument("to", type=Path, help="the .jsonl or .parquet file to write")
    parser.add_argument(
        "--format", default="trl", metavar="{trl,ultrafeedback,jsonl}", help="of the rows (trl)"
    )
    parser.add_argument(
        "--pairs",
        default="best_worst",
        metavar="{best_worst,all,adjacent}",
        help="that --format trl makes of a list (best_worst)",
    )
    parser.add_argument(
        "--split", metavar="{train,validation,heldout}", help="only the prompts of this split"
    )
    given = parser.parse_args(arguments)

    from rankdistill.rank.existing import load_groups
    from rankdistill.rank.write import export

    groups = (
        group
        for group in load_groups(given.ranked)
        if given.split is None or group["split"] == given.split
    )
    written = export(groups, given.to, given.format, given.pairs)
    print(f"{given.to}: {written} rows")
    return 0


if __name__ == "__main__":
    sys.exit(shell.run(main))
