"""The rows of a warm-up: a response with its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase, Trainer
from transformers.trainer_utils import TrainOutput

from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup
from rankdistill.models import encode_prompt, token_group
from rankdistill.rows import Group


@dataclass(frozen=True)
class TokenRow:
    """A response with its prompt: what a step is made of."""

    prompt_id: str
    tokens: TokenGroup
    index: int = 0
    """Its position among the rows."""
    turns: Sequence[Sequence[int]] | None = None
    """Spans [start, end) of the response that are learned; None: all of it."""
    seen: TokenGroup | None = None
    """The response behind the prompt as the teacher sees it; None: it sees the same."""

    @property
    def for_teacher(self) -> TokenGroup:
        """What the teacher reads."""
        return self.seen or self.tokens

    @property
    def response(self) -> Sequence[int]:
        """The response's token ids."""
        return self.tokens.responses[0]

    @property
    def learned(self) -> list[bool]:
        """Of each response token, whether it is learned."""
        if self.turns is None:
            return [True] * len(self.response)
        inside = {i for start, end in self.turns for i in range(start, end)}
        return [i in inside for i in range(len(self.response))]

    @property
    def length(self) -> int:
        """Tokens of the prompt and the response."""
        return len(self.tokens.prompt) + len(self.response)


def token_rows(groups: Sequence[Group], tokenizer: PreTrainedTokenizerBase) -> list[TokenRow]:
    """One row per response: its prompt's ids and the response's ids as they were sampled.

    EOS is among the ids where the teacher wrote it; a response cut by length has none, so that the
    student does not learn to stop there. Responses without a token are left out.

    Raises:
        UserError: There is no response.
    """
    rows: list[TokenRow] = []
    for group in groups:
        prompt = token_group(group, tokenizer).prompt
        shown = _shown(group, tokenizer, len(prompt))
        for response in group["responses"]:
            if response["token_ids"]:
                tokens = TokenGroup(prompt, [response["token_ids"]])
                turns = response.get("turns")
                seen = None if shown is None else TokenGroup(shown, [response["token_ids"]])
                rows.append(TokenRow(group["prompt_id"], tokens, len(rows), turns, seen))
    if not rows:
        raise UserError(
            "the warm-up has no response of the teacher to learn from: check the train split of "
            "prompts.path, or set warmup=none."
        )
    return rows


def _shown(group: Group, tokenizer: PreTrainedTokenizerBase, behind: int) -> list[int] | None:
    """The prompt's ids as the teacher sees them; None where it sees what the student does.

    Args:
        behind: Tokens of the student's prompt that the responses stand behind.
    """
    if "teacher_messages" not in group:
        return None
    left_out = len(encode_prompt(tokenizer, group["messages"])) - behind
    shown = encode_prompt(tokenizer, group["teacher_messages"])
    return shown[: len(shown) - left_out]


def figures(trainer: Trainer, result: TrainOutput, rows: Sequence[TokenRow]) -> dict[str, Any]:
    """What a run records of a warm-up: the last logged loss, work done, and the whole history."""
    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    return {
        "loss": losses[-1] if losses else result.training_loss,
        "steps": trainer.state.global_step,
        "responses": len(rows),
        "tokens": sum(sum(row.learned) for row in rows),
        "seconds": result.metrics["train_runtime"],
        "history": history,
    }
