"""How a model writes what it thinks, brought to the form of `rankdistill.thoughts`.

Most write `<think> .. </think>` before the answer, the first mark of which the chat template may
have written at the end of the prompt (DeepSeek-R1's, Nemotron's). gpt-oss writes channels, whose
names are no special tokens and would stand in the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from rankdistill.errors import UserError
from rankdistill.models.tokenizer import decode_response, rendered
from rankdistill.rows import Response
from rankdistill.thoughts import CLOSE, OPEN, answer_of, has_thoughts, thought_of

_CHANNEL = "<|channel|>"
_ANALYSIS = re.compile(
    r"<\|channel\|>(?:analysis|commentary)<\|message\|>(.*?)(?=<\|(?:end|start|channel)\|>|\Z)",
    re.DOTALL,
)
_FINAL = re.compile(r"<\|channel\|>final<\|message\|>")
_CALL = re.compile(r"(?:<\|start\|>assistant|\A) to=|<\|channel\|>commentary to=")
_END_OF_PROMPT = 32
"""Tokens at a prompt's end that an opened thought is looked for in."""


def knows_thoughts(source: str) -> bool:
    """Whether a chat template, or what is beside it, has a word for thoughts."""
    return "think>" in source or _CHANNEL in source


@dataclass(frozen=True)
class Thoughts:
    """What a model's responses hold of its thoughts.

    Args:
        tokenizer: Of the model.
        by_template: Whether its chat template knows of thoughts; of others only a response that has
            the marks in its text is taken apart.
    """

    tokenizer: PreTrainedTokenizerBase
    by_template: bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Thoughts:
        """As the chat template says; one that closes the thought in the prompt has none."""
        knows = knows_thoughts(str(tokenizer.chat_template))
        asked = [{"role": "user", "content": "A question."}]
        try:
            closed = knows and rendered(tokenizer, asked, add_generation_prompt=True)
        except UserError:  # a template that wants other turns
            closed = ""
        return cls(tokenizer, knows and not str(closed).rstrip().endswith(CLOSE))

    @property
    def identity(self) -> dict[str, Any]:
        """What an output of responses depends on besides the model; {} of one without thoughts."""
        return {"thoughts": 1} if self.by_template else {}

    def apart(self, prompt: Sequence[int], response: Response) -> Response:
        """The response with its text in the common form, and `thought_tokens` where it thought.

        Args:
            prompt: Token ids that it was written behind.
        """
        if not self.by_template and not has_thoughts(response["text"]):
            return response
        ids = response["token_ids"]
        raw = self._raw(ids)
        if _CHANNEL in raw:  # what names none, as a verdict that a grammar forces, is an answer
            count, text = self._of_channels(ids, raw)
        else:
            count, text = self._of_marks(ids, raw, opened(self.tokenizer, prompt))
        found: Response = {**response, "text": text}
        if count:
            found["thought_tokens"] = count
        return found

    def counted(self, prompt: Sequence[int], response: Response) -> Response:
        """The response with `thought_tokens` of its ids, and the text that it has."""
        rest: Any = {key: value for key, value in response.items() if key != "thought_tokens"}
        if not has_thoughts(response["text"]):
            return rest
        return {**self.apart(prompt, rest), "text": response["text"]}

    def written(self, prompt: Sequence[int], text: str) -> str:
        """What the model writes behind a prompt so that `apart` makes this text of it."""
        if _CHANNEL in str(self.tokenizer.chat_template):
            answer = answer_of(text)
            final = f"<|end|><|start|>assistant<|channel|>final<|message|>{answer}"
            return f"<|channel|>analysis<|message|>{thought_of(text)}{final if answer else ''}"
        begun, text = opened(self.tokenizer, prompt), text.lstrip()
        if not begun:
            return text
        return text.removeprefix(begun if text.startswith(begun) else OPEN)

    def _of_marks(self, ids: Sequence[int], raw: str, begun: str) -> tuple[int, str]:
        """Tokens that were thought, and the text."""
        if not begun and not raw.lstrip().startswith(OPEN):
            return 0, decode_response(self.tokenizer, ids)
        end = raw.find(CLOSE)
        count = len(ids) if end < 0 else self._tokens_to(ids, end + len(CLOSE))
        before = decode_response(self.tokenizer, ids[:count])
        thought, _, rest = before.partition(CLOSE)
        thought = thought if begun else thought.lstrip().removeprefix(OPEN)
        answer = "" if end < 0 else CLOSE + rest + decode_response(self.tokenizer, ids[count:])
        return count, (begun or OPEN) + thought + answer

    def _of_channels(self, ids: Sequence[int], raw: str) -> tuple[int, str]:
        final, call = _FINAL.search(raw), _CALL.search(raw)
        end = final.end() if final else call.start() if call else None
        count = len(ids) if end is None else self._tokens_to(ids, end)
        thought = "\n".join(_ANALYSIS.findall(self._raw(ids[:count])))
        answer = decode_response(self.tokenizer, ids[count:])
        if end is None:
            return count, f"{OPEN}\n{thought}"
        return count, f"{OPEN}\n{thought}\n{CLOSE}\n\n{answer}" if thought else answer

    def _tokens_to(self, ids: Sequence[int], end: int) -> int:
        """How many ids it takes to write so many characters; text grows with every id."""
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high) // 2
            if len(self._raw(ids[:middle])) < end:
                low = middle + 1
            else:
                high = middle
        return low

    def _raw(self, ids: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )


def opened(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> str:
    """The thought that a template opened at a prompt's end, `<think>` and what follows; or ""."""
    end = str(tokenizer.decode(list(prompt[-_END_OF_PROMPT:]), skip_special_tokens=False))
    found = re.search(rf"{OPEN}\s*\Z", end)
    return found[0] if found else ""
