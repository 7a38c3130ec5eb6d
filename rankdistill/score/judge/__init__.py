"""A language model as the judge: `score=judge` and `score=rubric`."""

from rankdistill.score.judge.rubric import Rubric
from rankdistill.score.judge.scorer import LLMJudge

__all__ = ["LLMJudge", "Rubric"]
