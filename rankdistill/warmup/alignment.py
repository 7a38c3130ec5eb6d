"""One text in the tokens of two tokenizers: where both have read the same, and what both can say.

Two next-token distributions speak of the same thing where they follow the same text. Character
offsets tell where that is; tokens of the same characters are the same outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rankdistill.errors import UserError

NOWHERE = -1
_SPELLINGS = (("\u0120", " "), ("\u2581", " "), ("\u010a", "\n"))
"""How byte-level and SentencePiece vocabularies write spaces and line breaks."""


class SharedTokens(NamedTuple):
    """Tokens of the same characters in two vocabularies; EOS goes with EOS."""

    ours: Tensor
    """[S] ids of the first."""
    theirs: Tensor
    """[S] ids of the second."""


def shared_tokens(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> SharedTokens:
    """What both vocabularies have, in the order of the first one's ids."""
    a, b = _spelled(ours), _spelled(theirs)
    pairs = [(a[text], b[text]) for text in a.keys() & b.keys()]
    pairs.append((_eos(ours), _eos(theirs)))
    return SharedTokens(*torch.tensor(sorted(pairs)).unbind(dim=1))


def ends_in_text(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """Token ids of a response's text, without EOS, and the character after each of them.

    Raises:
        UserError: A tokenizer without a fast version does not tell.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"the tokenizer of '{tokenizer.name_or_path}' has no fast version, so its tokens' "
            "places in a text are unknown: use warmup=sequence."
        )
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(coded["input_ids"]), [end for _, end in coded["offset_mapping"]]


def following_the_same_text(
    ends: Sequence[int], tokens: int, their_ends: Sequence[int], their_tokens: int
) -> list[int]:
    """[tokens] which of their tokens follows the same text as ours does; `NOWHERE`: none.

    Args:
        ends: The character after each of our tokens, EOS left out.
        tokens: Ours, EOS included; fewer than there are ends where the response was cut.
        their_ends: As `ends`.
        their_tokens: As `tokens`.

    >>> following_the_same_text([1, 3, 6], 4, [3, 6], 3)  # a|bc|def|EOS and abc|def|EOS
    [0, -1, 1, 2]
    """
    # Parts of one character all end where it ends: what follows the character is the last of them.
    ours = {end: index for index, end in enumerate([0, *ends][:tokens])}
    theirs = {end: index for index, end in enumerate([0, *their_ends][:their_tokens])}
    found = [NOWHERE] * tokens
    for end, index in ours.items():
        found[index] = theirs.get(end, NOWHERE)
    return found


def _spelled(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Text -> id of all tokens but EOS."""
    spelled: dict[str, int] = {}
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        if index != tokenizer.eos_token_id:
            for written, meant in _SPELLINGS:
                token = token.replace(written, meant)
            spelled.setdefault(token, index)
    return spelled


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    assert isinstance(tokenizer.eos_token_id, int)  # `load_tokenizer` refuses one without
    return tokenizer.eos_token_id
