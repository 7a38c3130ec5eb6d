"""A language model as the judge: `score=judge`."""

from rankdistill.score.judge.scorer import LLMJudge

__all__ = ["LLMJudge"]
