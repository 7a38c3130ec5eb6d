"""Better prompts, as a control: what asking differently gives without any training.

Each way turns the messages of a prompt into others that ask for the same. The one that does best on
validation prompts is given to the student before training, the trained one and the teacher alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rankdistill.prompts.instructions import demands_of
from rankdistill.rows import Message, Prompt, row_columns

SYSTEM = (
    "Follow every requirement of the request to the letter: its length, its form, and what must or "
    "must not be in the answer. Check each one before you answer."
)
_EXAMPLES = (
    ("words", "What is a kettle for? Answer in at most 8 words.", "It boils water for tea."),
    ("title", "What is a kettle for? Begin with a title wrapped in << and >>.",
     "<<The kettle>>\nA kettle boils water for tea or coffee."),
    ("postscript", "Why do we need sleep? Add a last line that starts with P.S.",
     "Sleep lets the body and the mind recover.\nP.S. A dark room helps."),
    ("commas", "What grows in a garden? Do not use any commas.",
     "Flowers and vegetables and herbs grow in a garden."),
    ("bullets", "What grows in a garden? Use 2 or more bullet points, such as: * a point",
     "* Flowers\n* Vegetables"),
    ("bold", "What is a kettle for? Make one or more words bold, such as **word**.",
     "It **boils water** for tea."),
)  # fmt: skip
"""(kind, request, answer); the two that are shown are of kinds that the prompt does not ask for."""


def with_system(prompt: Prompt) -> list[Message]:
    """A system prompt that asks for care, before any other message."""
    return [Message(role="system", content=SYSTEM), *prompt["messages"]]


def repeated(prompt: Prompt) -> list[Message]:
    """What is demanded, once more at the end; the whole request where demands are not known."""
    *before, last = prompt["messages"]
    demands = demands_of(row_columns(prompt))
    again = " ".join(demand.text for demand in demands) or last["content"]
    text = f"{last['content']}\n\nRemember: {again}"
    return [*before, {**last, "content": text}]


def with_examples(prompt: Prompt) -> list[Message]:
    """Two requests with right answers, of other kinds than the prompt's, before it."""
    asked = {demand.kind for demand in demands_of(row_columns(prompt))}
    shown = [example for example in _EXAMPLES if example[0] not in asked][:2]
    turns = []
    for _, request, answer in shown:
        turns += [Message(role="user", content=request), Message(role="assistant", content=answer)]
    return [*turns, *prompt["messages"]]


def with_worked(prompt: Prompt, worked: Sequence[Prompt]) -> list[Message]:
    """Train prompts with the responses that the data has, before it."""
    turns = []
    for example in worked:
        turns += [
            *example["messages"],
            Message(role="assistant", content=example.get("response", "")),
        ]
    return [*turns, *prompt["messages"]]


PROMPTINGS: Mapping[str, Callable[[Prompt], list[Message]]] = {
    "system": with_system,
    "repeated": repeated,
    "examples": with_examples,
}
"""By name; a template without system turns leaves `system` out."""


def prompted(prompt: Prompt, name: str, worked: Sequence[Prompt] = ()) -> Prompt:
    """The prompt, asked in the way of that name; its id stays, since it asks for the same.

    Args:
        prompt: Of any split.
        name: One of `PROMPTINGS`.
        worked: Train prompts with responses, which are the examples where there are any.
    """
    if name == "examples" and worked:
        return {**prompt, "messages": with_worked(prompt, worked)}
    return {**prompt, "messages": PROMPTINGS[name](prompt)}
