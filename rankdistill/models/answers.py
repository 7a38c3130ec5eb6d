"""Answers that no model of ours sampled, in tokens: as the chat template writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from transformers import PreTrainedTokenizerBase

from rankdistill.errors import UserError
from rankdistill.models.thoughts import Thoughts
from rankdistill.models.tokenizer import (
    decode_response,
    encode_conversation,
    encode_prompt,
    encode_response,
)
from rankdistill.thoughts import answer_of, has_thoughts, thought_of
from rankdistill.tool_calls import calls_in


def encode_answers(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    texts: Sequence[str],
    prompt: list[int] | None = None,
) -> tuple[list[int], list[list[int]]]:
    """Token ids of a conversation and of complete answers to it, as the template writes them.

    An answer that no model sampled is tokenised together with its conversation: a tokenizer may
    put a space before a text that stands alone (SentencePiece), and a template may close a thought
    or name a channel before the answer. The ids of the conversation are those of `encode_prompt`
    up to where the first answer departs from them: a template that opens a thought for the model
    to write leaves it out before an answer without one.

    An answer with a thought before it stands where the template puts one (`reasoning_content`, or
    `thinking`); of a template that leaves thoughts out, as the model itself would write it. Calls
    of tools (`rankdistill.tool_calls`) are written in the template's way, where it has one.

    Args:
        messages: Up to the answer.
        texts: The answers; each gets EOS once.
        prompt: What `encode_prompt` makes of the messages, where it is known.

    Returns:
        The conversation's ids, and the ids of each answer behind it.

    Raises:
        UserError: the template refuses the conversation, or does not write an answer as it is.
    """
    prompt = encode_prompt(tokenizer, messages) if prompt is None else prompt
    wholes = [_whole(tokenizer, messages, prompt, text) for text in texts]
    shared = min([len(prompt), *(_common(prompt, whole) for whole in wholes)])
    eos = tokenizer.eos_token_id
    answers = []
    for whole, text in zip(wholes, texts, strict=True):
        ids = _to_eos(whole[shared:], eos)
        said = text.split(str(tokenizer.eos_token))[0].strip()
        written = decode_response(tokenizer, ids)
        if not all(part in written for part in _parts(said)):
            raise UserError(
                f"The chat template of '{tokenizer.name_or_path}' does not write an answer as it "
                f"is (of '{_line(said)}' it makes '{_line(written)}'): take another template "
                "(student.chat_template)."
            )
        answers.append([*ids, eos])
    return prompt[:shared], answers


def encode_texts(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    texts: Sequence[str],
    *,
    whole_prompt: bool = False,
) -> tuple[list[int], list[list[int]]]:
    """As `encode_answers`; each text by itself where the template would change one.

    Args:
        whole_prompt: Whether they have to stand behind the whole prompt.
    """
    asked = encode_prompt(tokenizer, messages)
    try:
        prompt, answers = encode_answers(tokenizer, messages, texts, asked)
    except UserError:  # what was said is to be read
        prompt, answers = [], []
    if not answers or (whole_prompt and len(prompt) < len(asked)):
        return asked, [encode_response(tokenizer, text) for text in texts]
    return prompt, answers


def _whole(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    prompt: list[int],
    text: str,
) -> list[int]:
    """The conversation with the answer at its end, in tokens."""

    def told(turn: Mapping[str, Any]) -> list[int]:
        return encode_conversation(tokenizer, [*messages, {"role": "assistant", **turn}])

    def says_all(whole: list[int]) -> bool:
        behind = _to_eos(whole[_common(prompt, whole) :], tokenizer.eos_token_id)
        return all(part in decode_response(tokenizer, behind) for part in _parts(text.strip()))

    for turn in _turns(text):
        with suppress(UserError):  # the template does not take it so
            if says_all(whole := told(turn)):
                return whole
    if not thought_of(text):
        return told({"content": answer_of(text)})
    return [*prompt, *encode_response(tokenizer, Thoughts.of(tokenizer).written(prompt, text))]


def _turns(text: str) -> list[dict[str, Any]]:
    """The ways to say a text that is more than an answer: its parts by themselves, or as it is.

    None of an answer alone, nor of a thought that has none.
    """
    thought, answer = thought_of(text), answer_of(text)
    content, calls = calls_in(answer)
    if not answer or not (calls or has_thoughts(text)):
        return []
    parts: dict[str, Any] = {"content": content}
    parts |= {"tool_calls": calls} if calls else {}
    parts |= {"reasoning_content": thought, "thinking": thought} if thought else {}
    return [parts, {"content": text}] if thought or calls else [{"content": text}]


def _parts(text: str) -> list[str]:
    """What has to be found in what the template writes of an answer."""
    content, calls = calls_in(answer_of(text))
    names = [call["function"]["name"] for call in calls]
    found = [part for part in (thought_of(text), content.strip(), *names) if part]
    return found if found and (names or has_thoughts(text)) else [text]


def _to_eos(ids: list[int], eos: Any) -> list[int]:
    return ids[: ids.index(eos)] if eos in ids else ids


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _line(text: str) -> str:
    """The beginning of a text, for a message."""
    return " ".join(text.split())[:40]
