"""Text to token ids: one BOS at most, one EOS, no surprises from a template."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import CHAT_TEMPLATE, build_tokenizer
from tokenizers import normalizers, processors
from transformers import AutoTokenizer

from rankdistill.errors import UserError
from rankdistill.models import (
    Model,
    decode_response,
    encode_prompt,
    encode_response,
    load_tokenizer,
    tokenizer_difference,
    tokenizers_agree,
)

NAMED_OTHERWISE = {"name_or_path": "hub/another", "model_max_length": 77, "padding_side": "left"}
HI = [{"role": "user", "content": "Hi"}]


def saved(folder: Path, tokenizer=None, **changes) -> str:
    """A folder with the test tokenizer, some of its attributes changed."""
    tokenizer = tokenizer or build_tokenizer()
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return str(folder)


def test_files_are_read_once_and_again_when_they_change(tmp_path: Path, monkeypatch) -> None:
    path, read = saved(tmp_path), []
    from_pretrained = AutoTokenizer.from_pretrained
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda *a, **k: read.append(a) or from_pretrained(*a, **k)
    )
    first = load_tokenizer(path)
    first.pad_token = first.eos_token
    second = load_tokenizer(path)
    assert len(read) == 1 and second.pad_token == "<|pad|>" != first.pad_token
    assert second.encode("Hi", padding="max_length", max_length=4) != first.encode("Hi")
    (tmp_path / "chat_template.jinja").write_text(CHAT_TEMPLATE + "{# new #}")
    assert load_tokenizer(path).chat_template.endswith("{# new #}") and len(read) == 2


def test_models_of_one_tokenizer_share_what_their_conversations_are_made_of(tmp_path: Path) -> None:
    one, two = saved(tmp_path / "one"), saved(tmp_path / "two", **NAMED_OTHERWISE)
    (tmp_path / "two" / "config.json").write_text('{"model_type": "llama", "vocab_size": 300}')
    a, b = (Model(path, {"sha256": path}) for path in (one, two))
    assert a.identity != b.identity and a.tokenizer_identity == b.tokenizer_identity


@pytest.mark.parametrize(
    "changes",
    [{"chat_template": CHAT_TEMPLATE + "{# new #}"}, {"pad_token": "<|im_start|>"}, {}],
    ids=["template", "special token", "normaliser"],
)
def test_what_writes_a_conversation_otherwise_is_another_tokenizer(tmp_path: Path, changes) -> None:
    tokenizer = build_tokenizer()
    if not changes:  # the same vocabulary
        tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    one, other = saved(tmp_path / "one"), saved(tmp_path / "other", tokenizer, **changes)
    a, b = (Model(path, {}).tokenizer_identity for path in (one, other))
    assert a != b


def test_a_prompt_ends_where_the_response_begins(tokenizer) -> None:
    text = tokenizer.decode(encode_prompt(tokenizer, HI))
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("template_writes_bos", [True, False])
def test_the_template_alone_decides_about_bos(tmp_path: Path, template_writes_bos: bool) -> None:
    tokenizer = build_tokenizer()
    bos = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", bos)]
    )
    start = "{{ bos_token }}" if template_writes_bos else ""
    tokenizer.chat_template = start + "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer = load_tokenizer(saved(tmp_path, tokenizer))
    assert tokenizer("Hi")["input_ids"][0] == bos, "this tokenizer adds BOS by itself"
    assert encode_prompt(tokenizer, HI).count(bos) == int(template_writes_bos)
    assert bos not in encode_response(tokenizer, "Hello")


def test_eos_is_appended_exactly_once(tokenizer) -> None:
    eos = tokenizer.eos_token_id
    plain = encode_response(tokenizer, "Hello")
    assert plain[-1] == eos and plain.count(eos) == 1
    assert encode_response(tokenizer, "Hello<|im_end|>") == plain
    assert encode_response(tokenizer, "") == [eos]


@pytest.mark.parametrize("text", ["Hello", "  two  spaces , and\n\nlines .", "naïve 日本 😀", ""])
def test_a_response_survives_the_round_trip(tokenizer, text: str) -> None:
    assert decode_response(tokenizer, encode_response(tokenizer, text)) == text


def test_pad_becomes_eos_where_there_is_none(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved(tmp_path, pad_token=None))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2


def test_eos_is_what_the_template_ends_a_turn_with(tmp_path: Path) -> None:
    """Base tokenizers name their end of document, which a chat model never writes."""
    tokenizer = load_tokenizer(saved(tmp_path, eos_token="<|pad|>"))
    assert tokenizer.eos_token == "<|im_end|>"


def test_eos_stays_where_a_turn_ends_with_text(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n\n{% endfor %}"
    tokenizer = load_tokenizer(saved(tmp_path, eos_token="<|pad|>", chat_template=template))
    assert tokenizer.eos_token == "<|pad|>"


def test_no_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no chat template.*instruct version"):
        load_tokenizer(saved(tmp_path, chat_template=None))


def test_no_eos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"names no EOS token.*`eos_token`"):
        load_tokenizer(saved(tmp_path, eos_token=None))


def test_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"tokenizer of .* cannot be loaded"):
        load_tokenizer(str(tmp_path))


def test_a_template_without_system_role_says_so() -> None:
    tokenizer = build_tokenizer()
    refusal = "{{ raise_exception('System role not supported') }}"
    tokenizer.chat_template = f"{{% if messages[0]['role'] == 'system' %}}{refusal}{{% endif %}}"
    with pytest.raises(UserError, match=r"takes no system message.*first user message"):
        encode_prompt(tokenizer, [{"role": "system", "content": "Be brief."}, *HI])


def test_any_other_refusal_of_the_template_is_quoted() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('Roles must alternate') }}"
    with pytest.raises(UserError, match="roles user, user: Roles must alternate"):
        encode_prompt(tokenizer, HI * 2)


def test_tokenizers_agree_by_vocabulary_and_ids() -> None:
    ours, theirs = build_tokenizer(), build_tokenizer()
    theirs.chat_template = CHAT_TEMPLATE + "!"
    assert tokenizers_agree(ours, theirs), "templates are not compared"
    theirs.add_tokens(["<extra>"])
    assert not tokenizers_agree(ours, theirs)
    assert tokenizer_difference(ours, theirs) == "the vocabularies have 259 and 260 tokens"


def test_a_differing_token_is_named() -> None:
    ours, theirs = build_tokenizer(), build_tokenizer()
    ours.add_tokens(["<a>", "<b>"])
    theirs.add_tokens(["<b>", "<a>"])
    assert tokenizer_difference(ours, theirs) == (
        "2 of 261 tokens differ, the first is '<a>': id 259 in one, id 260 in the other"
    )


def test_named_templates_without_a_default_are_refused(tmp_path: Path) -> None:
    named = {"tool_use": CHAT_TEMPLATE, "rag": CHAT_TEMPLATE}
    with pytest.raises(
        UserError, match="chat templates tool_use, rag and none that is the default"
    ):
        load_tokenizer(saved(tmp_path / "named", chat_template=named))
    tokenizer = load_tokenizer(saved(tmp_path / "one", chat_template={"default": CHAT_TEMPLATE}))
    assert tokenizer.decode(encode_prompt(tokenizer, HI)).endswith("assistant\n")


@pytest.mark.parametrize("rows", [3, 258, 259])
def test_a_token_without_a_row_of_the_embedding_is_said_at_load(tmp_path: Path, rows: int) -> None:
    folder = saved(tmp_path)
    (tmp_path / "config.json").write_text(f'{{"model_type": "llama", "vocab_size": {rows}}}')
    if rows == 3:
        with pytest.raises(UserError, match=r"The token 'u' of .* has the id 87, and .* 3 rows"):
            load_tokenizer(folder)
    else:  # a token that no conversation has may lack one
        assert len(load_tokenizer(folder)) == 259


def test_padding_without_a_row_of_the_embedding_is_eos(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    folder = saved(tmp_path, tokenizer)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 259}')
    assert load_tokenizer(folder).pad_token == "<|im_end|>"


@pytest.mark.parametrize("role", ["tool", "developer", "system"])
def test_a_template_without_words_for_a_role_says_so(role: str) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages if m.role in ('user', 'assistant') %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(UserError, match=f"leaves out what the role {role} says"):
        encode_prompt(tokenizer, [*HI, {"role": role, "content": "3\n4"}])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | tojson }}{% endfor %}"
    assert encode_prompt(tokenizer, [*HI, {"role": role, "content": 'The "sum"\nis 3.'}])
