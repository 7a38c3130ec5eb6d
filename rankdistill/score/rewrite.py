"""A rule's rewrite: where a program can do what is demanded, one response that does it joins.

A demand that none of a student's own samples ever meets ties its whole group and teaches nothing.
Many are string functions: capitals, a title, a postscript, a list. There the best response is
rewritten, and the ranking puts the rewrite before the rest, which say the same in another form.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rankdistill.models import Model, Thoughts, encode_response, encode_texts
from rankdistill.rows import Group, Response, row_columns
from rankdistill.score.verifier.forms import SENTENCE_END
from rankdistill.score.verifier.instructions import follows
from rankdistill.thoughts import CLOSE, OPEN, answer_of, has_thoughts, thought_of


def best_response(group: Group) -> Response | None:
    """The first of the best-scored responses."""
    return next(iter(_best_first(group)), None)


def _best_first(group: Group) -> list[Response]:
    known = [r for r in group["responses"] if math.isfinite(r.get("score", math.nan))]
    return sorted(known, key=lambda response: -response.get("score", 0.0))


SOURCE = "rule"


def _sentences(text: str) -> list[str]:
    ends = [0, *(end.end() for end in SENTENCE_END.finditer(text)), len(text)]
    parts = (text[a:b].strip() for a, b in pairwise(ends))
    return [part for part in parts if part]


def _titled(text: str) -> str | None:
    """The first words as a title above the text."""
    words = re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text)[:TITLE_WORDS]
    return f"<<{' '.join(words)}>>\n{text.strip()}" if words else None


def _postscript(text: str) -> str | None:
    """The last sentence as a postscript."""
    *before, last = _sentences(text) or [""]
    return f"{' '.join(before)}\nP.S. {last}" if before else None


def _bullets(text: str, least: int) -> str | None:
    """The sentences as a list."""
    parts = _sentences(text)
    return "\n".join(f"* {part}" for part in parts) if len(parts) >= least else None


def _paragraphs(text: str, least: int) -> str | None:
    """The sentences as paragraphs, the last of which has what is left."""
    parts = _sentences(text)
    first, rest = parts[: least - 1], parts[least - 1 :]
    return "\n\n".join([*first, " ".join(rest)]) if rest else None


def _bold(text: str, least: int) -> str | None:
    """The longest words in bold."""
    words = sorted({*re.findall(r"[^\W\d_]{4,}", text)}, key=lambda word: (-len(word), word))
    for word in words[:least]:
        text = re.sub(rf"(?<!\w){word}(?!\w)", f"**{word}**", text, count=1)
    return text if len(words) >= least else None


TITLE_WORDS = 4
REWRITES: Mapping[str, Callable[..., str | None]] = {
    "change_case:english_capital": str.upper,
    "change_case:english_lowercase": str.lower,
    "startend:quotation": lambda text: f'"{text.strip().strip(chr(34))}"',
    "startend:end_checker": lambda text, end_phrase: f"{text.rstrip()} {end_phrase}",
    "punctuation:no_comma": lambda text: text.replace(",", ""),
    "detectable_format:title": _titled,
    "form:opening": lambda text, phrase: f"{phrase} {text.lstrip()}",
    "form:postscript": _postscript,
    "form:bullets": _bullets,
    "form:paragraphs": _paragraphs,
    "form:one_paragraph": lambda text: " ".join(text.split()),
    "form:one_sentence": lambda text: (_sentences(text) or [None])[0],
    "form:bold": _bold,
    "form:no_bold": lambda text: text.replace("*", ""),
}
"""By the demand's rule; each takes its arguments too. None: there is too little to do it with."""


def rewrites(groups: Sequence[Group], writer: Model, max_response_tokens: int) -> list[Group]:
    """The groups that have a demand which none of their responses follows and a rule can meet.

    Each with one response, unscored: the best one that can be rewritten, in at most
    `max_response_tokens` tokens, since its end would be missing otherwise.

    Args:
        groups: Scored groups.
        writer: The model whose tokenizer the responses' token ids belong to.
        max_response_tokens: As in sampling.
    """
    tokenizer = writer.tokenizer()
    result = []
    for group in groups:
        for response in _best_first(group):
            text = _rewritten(answer_of(response["text"]), group)
            made = None if text is None else _response(tokenizer, group, response["text"], text)
            if made is not None and len(made["token_ids"]) <= max_response_tokens:
                result.append({**group, "responses": [made]})
                break
    return result


def _response(tokenizer: Any, group: Group, before: str, text: str) -> Response:
    """The rewritten answer; what was thought stays before it."""
    if not has_thoughts(before):
        ids = encode_response(tokenizer, text)
        return Response(text=text, token_ids=ids, finish_reason="stop", source=SOURCE)
    text = f"{OPEN}\n{thought_of(before)}\n{CLOSE}\n\n{text}"
    prompt, [ids] = encode_texts(tokenizer, group["messages"], [text], whole_prompt=True)
    made = Response(text=text, token_ids=ids, finish_reason="stop", source=SOURCE)
    return Thoughts.of(tokenizer).counted(prompt, made)


def _rewritten(text: str, group: Group) -> str | None:
    """The text so that it follows what no response follows; None where there is nothing to do."""
    before = text
    columns = row_columns(group)
    names, arguments = columns.get("instruction_id_list", []), columns.get("kwargs", [])
    for rule, given in zip(names, arguments, strict=True):
        known = {name: value for name, value in (given or {}).items() if value is not None}
        missed = not any(follows(answer_of(r["text"]), rule, known) for r in group["responses"])
        made = REWRITES[rule](text, **known) if missed and rule in REWRITES else None
        if made is not None and follows(made, rule, known):
            text = made
    return None if text == before else text
