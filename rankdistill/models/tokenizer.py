"""The rules by which text becomes token ids, in one place.

- A prompt is the chat template's text with the generation prompt, tokenised without further
  special tokens. The template alone decides about BOS, so there are never two of them.
- A response is its text and EOS, once. EOS is the token with which the chat template ends an
  assistant turn: some tokenizers name another one (the base model's end of document), which a
  chat model does not write after a response.
- The padding token may equal EOS: masks are made from lengths, never from ids.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from rankdistill.errors import UserError, first_line
from rankdistill.forward.batch import TokenGroup
from rankdistill.models.load import load_config, refusal
from rankdistill.models.locate import locate
from rankdistill.models.template_limits import check_ends
from rankdistill.tool_calls import FORMS, tool_names, tools_of

_ASKED = "A question to find in the text."
_REPLY = "A reply to find the end of."


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, made to follow the rules of this module.

    Its `eos_token` is the token that ends an assistant turn, and its `pad_token` is EOS where the
    model names none. A process reads it once, as long as its files stay, and gives copies.

    Args:
        path: Bundled model, GGUF file, folder or hub id, see `locate`.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        UserError: the model isn't there, has no tokenizer, no chat template or no EOS that it
            could write, or comes with code that may not run.
    """
    folder = locate(path, weights=False)
    if trust_remote_code:  # what another's code makes may not be copied
        return _read(path, folder, trust_remote_code)
    return copy.deepcopy(_read_once(path, folder, _stamp(folder)))


PROBE = (
    "Write 3 words, please:\n\tfor (i = 0; i < 1024; i++) { x += 3.14159; }\r\n  naïve Œuvre, "
    "它是什么。 Привет — “don't” #hash @name https://a.b/c?d=e&f=1 🙂👍🏽 ½ ﬁ é\u00a0\u200b!"
)
"""A text on which tokenizers of one vocabulary that split or normalise differently differ."""


def conversation_digest(path: str, *, trust_remote_code: bool = False) -> str:
    """Equal for tokenizers that write conversations in the same tokens, whatever their models are.

    Of the vocabulary, the special tokens, the chat template, and the tokens of `PROBE`: none of
    them changes when a library writes its files in another way.

    Args:
        path: As of `load_tokenizer`.
        trust_remote_code: As of `load_tokenizer`.
    """
    folder = locate(path, weights=False)
    return _digest_once(path, folder, _stamp(folder), trust_remote_code)


@lru_cache(maxsize=64)
def _digest_once(path: str, folder: str, stamp: tuple[object, ...], trusted: bool) -> str:
    tokenizer = load_tokenizer(path, trust_remote_code=trusted)
    content = [
        sorted(tokenizer.get_vocab().items()),
        [tokenizer.eos_token_id, tokenizer.pad_token_id, sorted(set(tokenizer.all_special_ids))],
        tokenizer.get_chat_template(),
        tokenizer(PROBE, add_special_tokens=False)["input_ids"],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _stamp(folder: str) -> tuple[object, ...]:
    """Changes when a file in the folder does."""
    found = [(entry.name, entry.stat()) for entry in os.scandir(folder) if os.path.exists(entry)]
    return tuple(sorted((name, stat.st_mtime_ns, stat.st_size) for name, stat in found))


@lru_cache(maxsize=8)
def _read_once(path: str, folder: str, stamp: tuple[object, ...]) -> PreTrainedTokenizerBase:
    return _read(path, folder, False)


def _read(path: str, folder: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder,
            trust_remote_code=trust_remote_code,
            clean_up_tokenization_spaces=False,
        )
    except Exception as error:  # a damaged file raises whatever its first odd value leads to
        raise refusal(path, f"The tokenizer of '{path}' cannot be loaded", error) from error
    if not tokenizer.chat_template:
        raise UserError(
            f"The tokenizer of '{path}' has no chat template, so a conversation cannot be written "
            f"for it: take its instruct version, or save one as `chat_template.jinja` beside it."
        )
    names = tokenizer.chat_template
    if isinstance(names, dict) and "default" not in names:
        raise UserError(
            f"The tokenizer of '{path}' has the chat templates {', '.join(names)} and none that is "
            "the default: save the one to be used as `chat_template.jinja` beside it, or as "
            "student.chat_template."
        )
    if not isinstance(tokenizer.model_max_length, int | float):
        raise UserError(
            f"The tokenizer of '{path}' has the model_max_length {tokenizer.model_max_length!r}: "
            "give a number of tokens in its tokenizer_config.json."
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"The tokenizer of '{path}' names no EOS token, so a response could never end: "
            f"set `eos_token` in its tokenizer_config.json."
        )
    check_ends(tokenizer)
    _use_the_end_of_a_turn(tokenizer)
    _check_eos(path, tokenizer, load_config(path, trust_remote_code=trust_remote_code))
    rows = embedding_rows(folder)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.eos_token
    _require_rows(tokenizer, path, rows)
    _require_ends(path, folder, rows)
    return tokenizer


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]]
) -> list[int]:
    """Token ids of a whole conversation, as the template writes it.

    Raises:
        UserError: as `encode_prompt`.
    """
    text = rendered(tokenizer, messages, add_generation_prompt=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]]
) -> list[int]:
    """Token ids of a conversation up to where the response begins.

    A template may write a system message of its own where the conversation has none (SmolLM2's
    and Qwen2's do); it is kept, since the model was trained with it.

    Raises:
        UserError: the template refuses the conversation, for example its system message, leaves out
            what the system or a tool says in it, or writes nothing of it.
    """
    text = rendered(tokenizer, messages, add_generation_prompt=True)
    token_ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not token_ids:
        raise UserError(
            f"The chat template of '{tokenizer.name_or_path}' writes nothing of a conversation "
            "that a response is to follow: take another template (student.chat_template)."
        )
    return token_ids


def encode_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a complete response: its text and EOS, which is added unless the text has it."""
    token_ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not token_ids or token_ids[-1] != tokenizer.eos_token_id:
        token_ids.append(tokenizer.eos_token_id)
    return token_ids


def token_group(group: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> TokenGroup:
    """A `Group` in tokens: its prompt, as far as its responses stand behind it, and their ids."""
    prompt = encode_prompt(tokenizer, group["messages"])[: group.get("prompt_tokens")]
    return TokenGroup(prompt, [response["token_ids"] for response in group["responses"]])


def decode_response(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text of a response, without its special tokens."""
    return str(
        tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    )


def tokenizer_difference(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> str | None:
    """How the vocabularies of two tokenizers differ, as a clause; None where they are the same.

    Equal means that every token has the same id in both, so that the two models' logits speak of
    the same tokens. Merge rules, templates and the choice of special tokens are not compared.
    """
    ours, theirs = a.get_vocab(), b.get_vocab()
    if ours == theirs:
        return None
    if len(ours) != len(theirs):
        return f"the vocabularies have {len(ours):,} and {len(theirs):,} tokens"
    token = min((t for t in ours if theirs.get(t) != ours[t]), key=ours.__getitem__)
    other = f"id {theirs[token]}" if token in theirs else "not a token"
    differing = sum(theirs.get(t) != i for t, i in ours.items())
    return (
        f"{differing:,} of {len(ours):,} tokens differ, the first is {token!r}: "
        f"id {ours[token]} in one, {other} in the other"
    )


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the vocabulary: equal where `tokenizers_agree`, and ids mean the same tokens."""
    tokens = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()


def tokenizers_agree(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Whether every token has the same id in both; `tokenizer_difference` says what differs."""
    return tokenizer_difference(a, b) is None


def _check_eos(path: str, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """UserError where the model has no row for the token that ends a response."""
    rows, eos = getattr(config.get_text_config(), "vocab_size", None), tokenizer.eos_token_id
    if isinstance(rows, int) and isinstance(eos, int) and eos >= rows:
        raise UserError(
            f"The tokenizer of '{path}' ends a response with {tokenizer.eos_token} (id {eos}), and "
            f"the model knows {rows:,} tokens, so a response could never end: take the tokenizer "
            "that the model was trained with."
        )


MOST_ADDED = 100_000
"""Characters that a chat template may write beside 20 for each of the conversation."""


def rendered(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool,
) -> str:
    """What the chat template writes of a conversation.

    Templates differ in the form that they take a call of a tool in: each form is tried.

    Raises:
        UserError: it refuses the conversation, fails, writes far more than it was given, or leaves
            out what the system or a tool says, a tool, or a call of one.
    """
    tools = tools_of(messages)
    calling = any(message.get("tool_calls") for message in messages)
    failed: UserError | None = None
    for form in FORMS if calling else FORMS[:1]:
        turns = [form(message) for message in messages]
        try:
            text = _written(tokenizer, turns, tools, add_generation_prompt)
            _require_all_said(tokenizer, messages, text)
            return text
        except UserError as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _written(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[dict[str, Any]],
    tools: str | None,
    add_generation_prompt: bool,
) -> str:
    """What the template writes, whatever it leaves out."""
    given = sum(len(str(message.get("content"))) for message in messages) + len(tools or "")
    try:
        text = str(
            tokenizer.apply_chat_template(
                list(messages),
                tools=None if tools is None else json.loads(tools),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        )
        if len(text) > MOST_ADDED + 20 * given:
            raise ValueError(f"it writes {len(text)} characters of a conversation of {given}")
    except TemplateError as error:
        where = f"The chat template of '{tokenizer.name_or_path}'"
        if (
            any(message.get("role") == "system" for message in messages)
            and "system" in str(error).lower()
        ):
            raise UserError(
                f"{where} takes no system message: put its text into the first user message."
            ) from error
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise UserError(
            f"{where} refuses a conversation with the roles {roles}: {first_line(error)}"
        ) from error
    except Exception as error:  # a template is a program, and fails by whatever it computes
        raise UserError(
            f"The chat template of '{tokenizer.name_or_path}' cannot write a conversation: "
            f"{first_line(error)}"
        ) from error
    return text


def _require_all_said(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], text: str
) -> None:
    """Refuses a template that has no words for a role, and leaves out what is said in it."""
    for message in messages:
        said = str(message.get("content") or "").strip()
        ways = (said, json.dumps(said, ensure_ascii=False)[1:-1])  # some write a tool's as JSON
        if message.get("role") not in ("user", "assistant") and not any(w in text for w in ways):
            raise UserError(
                f"The chat template of '{tokenizer.name_or_path}' leaves out what the role "
                f"{message.get('role')} says: put it into a user message."
            )
        calls = message.get("tool_calls") or ()
        for name in [*tool_names(message.get("tools")), *(c["function"]["name"] for c in calls)]:
            if name not in text:
                raise UserError(
                    f"The chat template of '{tokenizer.name_or_path}' leaves out the tool '{name}' "
                    "that the assistant may call or calls: take one that has words for tools."
                )


def embedding_rows(folder: str) -> int | float:
    """Rows of the embedding of the model in a folder; infinite where its config.json has none."""
    file = Path(folder) / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    rows = (config.get("text_config") or config).get("vocab_size", config.get("vocab_size"))
    return rows if isinstance(rows, int) else math.inf


def _require_rows(tokenizer: PreTrainedTokenizerBase, path: str, rows: int | float) -> None:
    """Refuses a model that has no embedding for a token of each conversation.

    Tokens that none of them has may lack one, as Gemma 3 1B's for images does.
    """
    try:
        used = encode_prompt(tokenizer, [{"role": "user", "content": _ASKED}])
    except UserError:
        used = []
    for token_id in [*used, tokenizer.eos_token_id]:
        if token_id >= rows:
            raise UserError(
                f"The token '{tokenizer.convert_ids_to_tokens(token_id)}' of '{path}' has the id "
                f"{token_id:,}, and the model's embedding {rows:,} rows: take a tokenizer that "
                "fits it, or resize the embedding (`model.resize_token_embeddings`) and save it."
            )


def _require_ends(path: str, folder: str, rows: int | float) -> None:
    """Refuses further EOS tokens, which the model's configuration names, that are no tokens."""
    for name in ("generation_config.json", "config.json"):
        file = Path(folder) / name
        named = json.loads(file.read_bytes()).get("eos_token_id") if file.is_file() else None
        if named is not None:
            break
    for token_id in named if isinstance(named, list) else [0 if named is None else named]:
        if not isinstance(token_id, int) or not 0 <= token_id < rows:
            raise UserError(
                f"The {name} of '{path}' ends a response with the token {token_id!r}, and the "
                f"model knows {rows:,} tokens: correct its eos_token_id."
            )


def _use_the_end_of_a_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    """Sets EOS to the added token that the template writes right after an assistant's text.

    Raises:
        UserError: the template does not write texts, as one that wants parts of images and text.
    """
    turns = [{"role": "user", "content": _ASKED}, {"role": "assistant", "content": _REPLY}]
    try:
        text = rendered(tokenizer, turns, add_generation_prompt=False)
    except UserError:
        return  # a template that takes no assistant turn has no end of one
    for content in (_ASKED, _REPLY):
        if content not in text:
            raise UserError(
                f"The chat template of '{tokenizer.name_or_path}' does not write a message that is "
                "text, so a model would never see one: take a template that does, as "
                "`chat_template.jinja` beside it or as student.chat_template."
            )
    ending = text.rpartition(_REPLY)[2].strip()
    token_ids = list(tokenizer(ending, add_special_tokens=False)["input_ids"]) if ending else []
    if token_ids and token_ids[0] in tokenizer.added_tokens_decoder:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(token_ids[0])
