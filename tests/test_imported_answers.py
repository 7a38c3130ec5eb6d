"""An answer that no model sampled is what the chat template would have written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trl
from test_models_tokenizer import saved
from tiny_models import SPECIAL, build_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers import models as token_models
from transformers import PreTrainedTokenizerFast

from rankdistill.errors import UserError
from rankdistill.models import (
    Model,
    encode_answers,
    encode_prompt,
    load_tokenizer,
    recoded,
    recoding,
    token_group,
)
from rankdistill.train.groups import ranked_group

ASK = [{"role": "user", "content": "Is it?"}]
TEMPLATES = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))


def sentencepiece() -> PreTrainedTokenizerFast:
    """Puts a space before a text, as Llama 2's and Mistral's do; one token a word or character."""
    words = ["Yes", "No", "▁Yes", "▁No"]
    alphabet = [chr(i) for i in range(33, 127)] + ["▁"]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x0A>": 3}
    for token in [*alphabet, "Ye", "▁Ye", *words]:
        vocabulary.setdefault(token, len(vocabulary))
    merges = [("Y", "e"), ("Ye", "s"), ("N", "o"), ("▁", "Yes"), ("▁", "No")]
    merges = [pair for pair in merges if "".join(pair) in vocabulary]
    backend = Tokenizer(
        token_models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        chat_template="{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    )  # fmt: skip


def test_no_space_is_put_before_an_answer():
    tokenizer = sentencepiece()
    row = {"prompt": "Is it?", "chosen": "Yes", "rejected": "No"}
    group = ranked_group(row, 0, tokenizer)
    names = [tokenizer.convert_ids_to_tokens(list(ids)) for ids in group.tokens.responses]
    assert names == [["Yes", "</s>"], ["No", "</s>"]]  # ["▁Yes", "</s>"] where it stands alone
    assert list(group.tokens.prompt) == encode_prompt(tokenizer, ASK)


THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
CHANNELS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.role == 'assistant' %} final{% endif %}"
    "{{ '\n' }}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "prompt", "answer"),
    [
        (THINKING, "<|im_start|>assistant\n", "Yes<|im_end|>"),
        (CHANNELS, "<|im_start|>assistant", " final\nYes<|im_end|>"),
    ],
    ids=["an open thought", "a channel"],
)
def test_what_a_template_puts_before_an_answer(template, prompt, answer):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    ids, answers = encode_answers(tokenizer, ASK, ["Yes", "No"])
    assert tokenizer.decode(ids).endswith(prompt)
    assert tokenizer.decode(answers[0]) == answer
    assert answers[1][-1] == tokenizer.eos_token_id


def test_ranked_answers_stand_behind_an_open_thought_where_one_was_sampled_there():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = THINKING

    def read(*responses: dict[str, object]) -> tuple[str, list[str]]:
        tokens = ranked_group({"messages": ASK, "responses": responses}, 0, tokenizer).tokens
        return tokenizer.decode(tokens.prompt), [tokenizer.decode(ids) for ids in tokens.responses]

    yes, no = {"text": "Yes", "score": 1.0}, {"text": "No", "score": 0.0}
    prompt, answers = read(yes, no)
    assert prompt.endswith("<|im_start|>assistant\n") and answers == [
        "Yes<|im_end|>",
        "No<|im_end|>",
    ]
    sampled = {"text": "Hm", "token_ids": tokenizer("Hm")["input_ids"], "score": 2.0}
    prompt, answers = read(sampled, no)
    assert prompt.endswith("<|im_start|>assistant\n<think>\n") and answers == ["Hm", "No<|im_end|>"]


def test_a_teacher_that_would_think_reads_an_answer_where_one_stands(tmp_path):
    # Its likelihood was that of a thought: the answer stood behind the open <think>.
    plain, thinking = tmp_path / "plain", tmp_path / "thinking"
    writer = Model(saved(plain), {"model": "writer"})
    other = build_tokenizer()
    other.add_tokens([AddedToken("<more>", special=True)])  # not the writer's tokenizer
    other.chat_template = THINKING
    reader = Model(saved(thinking, other), {"model": "reader"})
    response = {"text": "Yes", "token_ids": [7], "finish_reason": "stop", "source": "student"}
    group = {"prompt_id": "p", "split": "train", "messages": ASK, "responses": [response]}
    [read] = recoded([group], writer, reader)
    tokens = token_group(read, reader.tokenizer())
    text = reader.tokenizer().decode([*tokens.prompt, *tokens.responses[0]])
    assert text.endswith("<|im_start|>assistant\nYes<|im_end|>") and "<think>" not in text
    assert recoding(writer, reader) and not recoding(writer, writer)
    # Beside the responses of another model it stands behind the whole prompt.
    [joined] = recoded([group], writer, reader, whole_prompt=True)
    assert "prompt_tokens" not in joined


def test_an_answer_that_the_template_changes_is_refused():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHANNELS.replace("{{ m.content }}", "{{ m.content | upper }}")
    with pytest.raises(UserError, match="does not write an answer as it is"):
        encode_answers(tokenizer, ASK, ["Yes"])


def test_a_template_of_parts_is_refused_at_load(tmp_path):
    parts = (
        "{% for m in messages %}<|im_start|>{{ m.role }}{% for p in m.content %}"
        "{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    )
    with pytest.raises(UserError, match="does not write a message that is text"):
        load_tokenizer(saved(tmp_path, chat_template=parts))


def test_an_end_of_a_turn_that_is_not_marked_special(tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([AddedToken("<end>", special=False)])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    assert load_tokenizer(saved(tmp_path, tokenizer)).eos_token == "<end>"


BAR = chr(0xFF5C)
"""DeepSeek's, the full-width one."""


def of_template(file: Path, folder: Path) -> str:
    """A byte-level tokenizer with the template, and all that looks like a token in it."""
    text = file.read_text()
    tokenizer = build_tokenizer()
    found = re.findall(rf"<\|[^|<>'\" ]+\|>|<{BAR}[^{BAR}]+{BAR}>|</?[a-z_]+>|\[/?[A-Z_]+\]", text)
    marks = [mark for mark in dict.fromkeys(found) if mark not in SPECIAL and "think" not in mark]
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    tokenizer.chat_template = text
    tokenizer.bos_token = next((m for m in marks if "begin" in m or m == "<bos>"), "<|pad|>")
    return saved(folder, tokenizer)


REFUSED = (
    "does not write a message that is text", "refuses a conversation", "cannot write a",
    "does not write an answer as it is",
)  # fmt: skip
"""What may be said of a template that is not followed."""


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_every_template_of_trl_is_followed_or_refused(file, tmp_path):
    try:
        tokenizer = load_tokenizer(of_template(file, tmp_path))
        prompt, answers = encode_answers(tokenizer, ASK, ["It is 2.", "No"])
    except UserError as error:
        assert any(words in str(error) for words in REFUSED)
        return
    for text, answer in zip(("It is 2.", "No"), answers, strict=True):
        whole = tokenizer.apply_chat_template(
            [*ASK, {"role": "assistant", "content": text}], tokenize=False
        )
        written = tokenizer.decode([*prompt, *answer], skip_special_tokens=False)
        # Up to the end of the turn; a template that writes none gets one.
        assert whole.startswith(written) or written == whole + tokenizer.eos_token
        assert text in written and answer[-1] == tokenizer.eos_token_id
