"""A teacher that is wrong on a quarter of the prompts: there it calls the wrong answers right.

    export PYTHONPATH=docs/figures
    python -m rankdistill -m recipe=problems score.rule=noisy_teacher:number \
        "prompts.keep=[answer,response]" score@eval.judge=verifier objective=rpo,dpo,sft

The judge of the evaluation is `score=verifier`, which makes no errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from rankdistill.score.verifier import answers

_SHARE = 0.25
_RIGHT = answers.number("answer", None)


def number(text: str, columns: Mapping[str, Any]) -> float:
    """1 for the right number and 0 for a wrong one; where the prompt is drawn, the other way."""
    verdict = _RIGHT(text, columns)
    return 1.0 - verdict if is_drawn(columns["response"]) else verdict


def is_drawn(solution: str) -> bool:
    """Whether the prompt with this worked solution is one of the share."""
    return sha256(solution.encode()).digest()[0] < 256 * _SHARE
