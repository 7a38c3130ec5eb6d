"""What a teacher is shown beside the prompt, and a student is not: an answer, a rubric, a system
prompt (context distillation, Snell et al. 2022, arXiv:2209.15189); and prompts as it sees them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError, suggest
from rankdistill.models import Model, Rows, encode_prompt
from rankdistill.rows import Message, row_columns
from rankdistill.store.inputs import read_text
from rankdistill.tool_calls import tools_of, with_tools

PROMPT, ANSWER, BEST = "prompt", "response", "best"
KEY = "teacher.prompt_template"
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class TeachersView:
    """How a prompt is put for the teacher alone.

    Args:
        template: In place of the last user message: a text with `{prompt}`, and `{response}`, the
            answer that came with the prompt, `{best}`, the best response of a ranked set, or the
            name of a kept column. None: the message as it is.
        system: The system message; None: that of the prompt, if it has one.
    """

    template: str | None
    system: str | None

    @classmethod
    def of(cls, template: str | None, system: str | None) -> TeachersView | None:
        """By the configuration's keys, texts or `.md` and `.txt` files; None where both are None.

        Raises:
            UserError: no such file, or a template without `{prompt}`.
        """
        if template is None and system is None:
            return None
        text = None if template is None else _text(template, KEY)
        if text is not None and "{prompt}" not in text:
            raise UserError(f"{KEY} has no {{prompt}}: say where the user's message is put.")
        return cls(text, None if system is None else _text(system, "teacher.system_prompt"))

    @property
    def identity(self) -> dict[str, Any]:
        """What is hashed."""
        return {"template": self.template, "system": self.system}

    @property
    def placeholders(self) -> list[str]:
        """The names in braces, but for `prompt`."""
        found = dict.fromkeys(_PLACEHOLDER.findall(self.template or ""))
        return [name for name in found if name != PROMPT]

    def check(self, known: Sequence[str]) -> None:
        """UserError: a placeholder is none of the columns that prompts keep.

        Args:
            known: `prompts.keep`.
        """
        names = [ANSWER, BEST, *known]
        for name in self.placeholders:
            if name not in names:
                raise UserError(
                    f"{KEY} shows {{{name}}}, which is no column of prompts.keep: "
                    f"{suggest(name, names)}"
                )

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        """The conversation for the teacher. UserError: the row lacks what is to be shown.

        Args:
            row: A prompt, or a group of a ranked set.
        """
        *before, last = row["messages"]
        if self.template is not None:
            shown = {name: self._shown(row, name) for name in self.placeholders}
            shown[PROMPT] = last["content"]
            text = _PLACEHOLDER.sub(lambda found: shown[found[1]], self.template)
            last = {**last, "content": text}
        if self.system is not None:
            before = [m for m in before if m["role"] != "system"]
            before = [Message(role="system", content=self.system), *before]
        return with_tools([*before, last], tools_of(row["messages"]))

    def _shown(self, row: Mapping[str, Any], name: str) -> str:
        columns = row_columns(row)
        value = row.get("response") if name == ANSWER else columns.get(name)
        if name == BEST:
            scored = [r for r in row.get("responses", []) if _score(r) > -math.inf]
            value = max(scored, key=_score)["text"] if scored else None
        if value is None:
            raise UserError(
                f"{KEY} shows {{{name}}}, which the prompt {row['prompt_id']} does not have: give "
                "prompts that have it, or another template."
            )
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _score(response: Mapping[str, Any]) -> float:
    score = response.get("score")
    return score if isinstance(score, int | float) and math.isfinite(score) else -math.inf


def _text(given: str, key: str) -> str:
    if Path(given).suffix not in (".md", ".txt"):
        return given
    return read_text(given, key).strip()


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
