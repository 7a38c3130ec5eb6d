"""Rows that cannot be read: set aside and counted by reason, so that one does not end a set."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rich.markup import escape

from rankdistill.console import say
from rankdistill.errors import UserError

REASONS = {
    "no_prompt": "without a prompt",
    "no_text": "with a message or a response that is no text",
    "unknown_role": "with an unknown speaker",
    "unnamed_tool": "that give or call a tool without a name",
    "unencodable": "with characters that are no Unicode text",
    "no_common_prompt": "whose responses answer different prompts",
    "empty_response": "with an empty response",
    "no_response": "that end before an assistant answers",
    "not_ranked": "without responses, or without scores and ranks for them",
    "inverted_labels": "whose rejected response scores higher than the chosen one",
    "refused_by_template": "that the chat template refuses",
}
"""Why a row is set aside, by the name of its count."""


class OddRow(UserError):
    """A row that cannot be read as it is meant; the others of its set may well be.

    Args:
        reason: One of `REASONS`.
        sentence: What a person is told where this row ends the run.
    """

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason

    def __reduce__(self) -> tuple[type[OddRow], tuple[str, str]]:
        return type(self), (self.reason, str(self))


@dataclass
class OddRows:
    """What became of the rows of a set that could not be read.

    Args:
        path: Of the set, for the person.
        strict: Whether the first of them ends the run (`prompts.strict`).
    """

    path: str
    strict: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    """Rows by reason."""
    first: dict[str, str] = field(default_factory=dict)
    """The sentence on the first row of each reason."""
    unread: dict[str, str] = field(default_factory=dict)
    """Where a column that belongs to the prompt and is not read has something, by its name."""

    def add(self, odd: OddRow) -> None:
        """Count a row. OddRow: it is the first, and `strict`."""
        if self.strict:
            raise odd
        self.counts[odd.reason] += 1
        self.first.setdefault(odd.reason, str(odd))

    def add_unread(self, columns: list[str], where: str) -> None:
        """Remember the columns of a row that are not read."""
        for name in columns:
            self.unread.setdefault(name, where)

    def tell(self) -> None:
        """One line for each reason, with the first row of it, and for each column not read."""
        for reason, count in self.counts.items():
            rows = "1 row" if count == 1 else f"{count:,} rows"
            what = f"left out {rows} of '{self.path}' {REASONS[reason]}"
            say(escape(f"{what}; the first: {self.first[reason]}"))
        for name, where in self.unread.items():
            what = (
                f"the column '{name}' is not read ({where} has it): what the model is to see or "
                "to say of it has to stand in the text."
            )
            say(escape(what))

    def nothing_left(self, read: int) -> str | None:
        """Why no row of all that were read is left; None where that is not because of these."""
        if not read or sum(self.counts.values()) < read:
            return None
        [(reason, count), *others] = self.counts.most_common()
        if count == 1 and not others:
            return self.first[reason]
        rest = sum(number for _, number in others)
        more = f", and {rest:,} odd in other ways" if rest else ""
        return (
            f"No row of '{self.path}' is left: {count:,} {REASONS[reason]}{more}; the first: "
            f"{self.first[reason]}"
        )
