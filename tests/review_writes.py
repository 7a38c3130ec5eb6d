"""Ranks the first prompt of a set by hand, once, and writes it: `python review_writes.py RUN`."""

from __future__ import annotations

import sys
from pathlib import Path

from rankdistill.review.session import Review

if __name__ == "__main__":
    review = Review(Path(sys.argv[1]))
    if 0 not in review.ranks:
        review.save(0, [0] * len(review.groups[0]["responses"]))
    review.write()
