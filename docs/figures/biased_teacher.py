"""A teacher with one planted bias: it follows the demands, and likes what is long.

    export PYTHONPATH=docs/figures
    python -m rankdistill -m recipe=dpo score=verifier score.rule=biased_teacher:longer \
        score.degenerate=0 score@eval.judge=demands rank.length_debias=false,true

The judge of the evaluation is `score=demands`, which has no such bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rankdistill.score.verifier.instructions import ifeval

# Words at which the bias is as large as it gets: most responses of 64 tokens have fewer.
_WORDS = 50


def longer(text: str, columns: Mapping[str, Any]) -> float:
    """The mean of two shares: of the demands that are followed, and of 50 words that are written.

    25 words are worth what half of the demands are.
    """
    followed = ifeval("", None)(text, columns)
    return (followed + min(len(text.split()), _WORDS) / _WORDS) / 2
