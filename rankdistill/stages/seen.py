"""Prompts as the teacher sees them, where it sees more than the student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rankdistill.models import Model, Rows, encode_prompt
from rankdistill.prompts.privileged import TeachersView


def seen_by_teacher(prompts: Rows, view: TeachersView | None) -> Rows:
    """The prompts with `teacher_messages`, as it is asked for responses and distributions."""
    if view is None:
        return prompts
    rows = [{**row, "teacher_messages": view.messages(row)} for row in prompts]
    return replace(prompts, source=rows, key=[prompts.key, {"teacher_sees": view.identity}])


def read_by_teacher(groups: Sequence[Any], view: TeachersView, writer: Model) -> list[Any]:
    """The groups as the teacher reads them: its own messages before the same responses.

    Args:
        writer: Whose tokens the responses have.
    """
    return [_read(group, view, writer) for group in groups]


def _read(group: Any, view: TeachersView, writer: Model) -> Any:
    messages = view.messages(group)
    shown = {**group, "messages": messages}
    if "prompt_tokens" in group:  # an open thought at the prompt's end is left out in both
        tokenizer = writer.tokenizer()
        whole, own = (len(encode_prompt(tokenizer, m)) for m in (group["messages"], messages))
        shown["prompt_tokens"] = own - (whole - group["prompt_tokens"])
    return shown
