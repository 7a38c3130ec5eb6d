"""lm-eval's models of those that think: what they generate is the answer alone.

lm-eval itself cuts what comes before a mark, which would leave a thought that was cut to be scored
as the answer, knows no channels, and may end a thought at a task's stops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rankdistill.models import Model, Thoughts, encode_prompt
from rankdistill.models.tokenizer import decode_response
from rankdistill.rows import Response
from rankdistill.thoughts import CLOSE, answer_of

_ASKED = [{"role": "user", "content": "A question."}]


def generates_answers(lm: Any, model: Model, *, chat: bool) -> None:
    """Have lm-eval's model of one that thinks generate answers, "" where it comes to none.

    Args:
        lm: lm-eval's `HFLM` or `VLLM`; one of a model that does not think stays as it is.
        chat: Whether it is asked in its chat template, which has it think and may open the thought.
    """
    if model.thoughts_identity:
        of_engine = hasattr(lm.model, "llm_engine")
        (_by_vllm if of_engine else _by_transformers)(lm, _reader(model, chat=chat), chat=chat)


def _reader(model: Model, *, chat: bool) -> Callable[[Sequence[int]], str]:
    """The answer in the tokens that the model wrote."""
    tokenizer = model.tokenizer()
    thoughts = Thoughts.of(tokenizer)
    prompt = encode_prompt(tokenizer, _ASKED) if chat else []

    def answer(ids: Sequence[int]) -> str:
        text = decode_response(tokenizer, ids)
        said = Response(text=text, token_ids=list(ids), finish_reason="stop", source="suite")
        return answer_of(thoughts.apart(prompt, said)["text"])

    return answer


def _by_transformers(lm: Any, answer: Callable[[Sequence[int]], str], *, chat: bool) -> None:
    decode, generate = lm.tok_decode, lm._model_generate
    end = decode(lm.eot_token_id, skip_special_tokens=False)

    def decoded(tokens: Any, skip_special_tokens: bool = True) -> str:
        if skip_special_tokens and not isinstance(tokens, int):
            return answer(tokens)
        return decode(tokens, skip_special_tokens=skip_special_tokens)

    def generated(*arguments: Any, stop: Sequence[str], **named: Any) -> Any:
        # The others are looked for in the answer, once it is there.
        return generate(*arguments, stop=[word for word in stop if word == end], **named)

    lm.tok_decode = decoded
    if chat:
        lm._model_generate = generated


def _by_vllm(lm: Any, answer: Callable[[Sequence[int]], str], *, chat: bool) -> None:
    generate = lm._model_generate

    def generated(*arguments: Any, **named: Any) -> Any:
        found = generate(*arguments, **named)
        for output in found if named.get("generate") else ():
            written = output.outputs[0]
            written.text = answer(written.token_ids)
        return found

    lm._model_generate = generated
    if chat:
        lm.think_end_token = CLOSE  # then it hands the engine no stops of the task
