"""A model folder that is not whole, or no model of ours, is refused in one sentence."""

from __future__ import annotations

import json
import resource
import shutil
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_models_convert import shapes as _shapes
from test_models_convert import write_gguf
from tiny_models import CHAT_TEMPLATE, build_model, build_tokenizer, model_in
from transformers import BertConfig, BertLMHeadModel

from rankdistill.errors import UserError
from rankdistill.models import (
    encode_prompt,
    identity,
    load_model,
    load_tokenizer,
    locate,
    template_limits,
)
from rankdistill.models.check import check_loading
from rankdistill.retrieval.search import BiEncoder
from rankdistill.schema import Precision
from rankdistill.score.reward_model import RewardModel
from rankdistill.train.reward.model import load_reward_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_dir: Path, tmp_path: Path) -> Path:
    """A model that may be broken."""
    return Path(shutil.copytree(tiny_dir, tmp_path / "model"))


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def without(folder: Path, *parts: str) -> None:
    """Leaves out the tensors with one of these parts in their names."""
    weights = load_file(folder / WEIGHTS)
    kept = {n: w for n, w in weights.items() if not any(part in n for part in parts)}
    assert len(kept) < len(weights)
    save_file(kept, folder / WEIGHTS, {"format": "pt"})


# ---------------------------------------------------------------------------- tensors that are lost


def lacks_a_layer(folder: Path) -> None:
    without(folder, ".layers.1.")


def lacks_its_head(folder: Path) -> None:
    edit_json(folder / "config.json", tie_word_embeddings=False)


def lists_one_tensor(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    name, shard = "model.norm.weight", "model-00001-of-00001.safetensors"
    index = {"metadata": {}, "weight_map": {name: shard}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    save_file({name: torch.ones(32)}, folder / shard, {"format": "pt"})


@pytest.mark.parametrize(
    ("lose", "named"),
    [
        (lacks_a_layer, r"9 tensors \(model\.layers\.1\.input_layernorm\.weight, .*, \.\.\) are"),
        (lacks_its_head, r"the tensor lm_head\.weight is"),
        (lists_one_tensor, r"29 tensors \(lm_head\.weight, model\.embed"),
    ],
)
def test_weights_that_lack_tensors_are_refused_by_name(
    folder: Path, lose: Callable[[Path], None], named: str
) -> None:
    lose(folder)
    with pytest.raises(UserError, match=f"cannot be loaded: {named}.* not in its files"):
        load_model(str(folder))
    with pytest.raises(UserError, match=r"as a reward model: .*model\.[a-z]+.* not in its files"):
        without(folder, ".mlp.") if lose is lacks_its_head else None
        load_reward_model(str(folder), new_head=True)


def test_a_gguf_file_that_lacks_tensors_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("test_models_convert.shapes", lambda *given: list(_shapes(*given))[:-3])
    write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(UserError, match=r"no GGUF model.*it lacks model\.layers\.1\.mlp"):
        locate(str(tmp_path / "tiny.gguf"))


def test_only_a_new_head_may_be_random(folder: Path) -> None:
    assert load_reward_model(str(folder), new_head=True)
    with pytest.raises(UserError, match=r"the tensor score\.weight is not in its files"):
        load_reward_model(str(folder))
    how: Any = {"attn_implementation": "sdpa", "trust_remote_code": False, "precision": "float32"}
    scorer = RewardModel(model=str(folder), max_tokens=512, max_batch_tokens=512, **how)
    edit_json(folder / "config.json", id2label={"0": "reward"})
    rows: Any = [{"messages": [{"role": "user", "content": "Hi"}], "responses": []}]
    with pytest.raises(UserError, match=r"The reward model .* the tensor score\.weight is not"):
        list(scorer(rows, None))  # type: ignore[arg-type]


def test_an_encoder_for_search_needs_no_pooler_but_its_layers(tmp_path: Path) -> None:
    encoder = bert(tmp_path / "bert")
    BiEncoder(str(encoder), ["a passage"])
    without(encoder, "layer.1.attention")
    with pytest.raises(UserError, match=r"retrieval\.encoder .* 10 tensors .*not in its files"):
        BiEncoder(str(encoder), ["a passage"])


# --------------------------------------------------------------------------------- broken as a kind


def bert(folder: Path) -> Path:
    config = BertConfig(
        vocab_size=259, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64,
    )  # fmt: skip
    BertLMHeadModel(config).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def huge_header(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**62) + data[8:])


def not_finite(value: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        weights["model.layers.2.mlp.up_proj.weight"][3, 5] = value
        save_file(weights, folder / WEIGHTS, {"format": "pt"})

    return spoil


def put(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content if isinstance(content, bytes) else content.encode()

    def write(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return write


def replaced_by_bert(folder: Path) -> None:
    shutil.rmtree(folder)
    bert(folder)


def with_a_late_eos(folder: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|done|>"})
    tokenizer.chat_template = str(tokenizer.chat_template).replace("<|im_end|>", "<|done|>")
    tokenizer.save_pretrained(folder)


def with_the_length(length: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        file = folder / "tokenizer_config.json"
        told = {**json.loads(file.read_text()), "model_max_length": length}
        file.write_text(json.dumps(told))

    return write


WRITES_NO_PROMPT = (
    "{% if not add_generation_prompt %}{% for m in messages %}{{ m['content'] }}"
    "{% endfor %}{% endif %}"
)
BROKEN = {
    "truncated weights": (cut, r"The teacher's file .* is damaged \(.*\): copy or download"),
    "no bytes of weights": (put(WEIGHTS, b""), r"The teacher's file .* is damaged"),
    "a huge header": (huge_header, r"The teacher's file .* is damaged"),
    "rubbish of weights": (put(WEIGHTS, b"x" * 999), r"The teacher's file .* is damaged"),
    "NaN": (not_finite(float("nan")), r"layers\.2\.mlp\.up_proj\.weight is not finite"),
    "infinity": (not_finite(float("-inf")), r"layers\.2\.mlp\.up_proj\.weight is not finite"),
    "config that is no JSON": (put("config.json", "{"), r"config\.json' is no JSON object"),
    "config that is a list": (put("config.json", "[]"), r"config\.json' is no JSON object"),
    "config that is null": (put("config.json", "null"), r"config\.json' is no JSON object"),
    "config in Latin-1": (put("config.json", b'{"a": "\xe9"}'), r"config\.json' is no JSON object"),
    "config that is empty": (put("config.json", "{}"), r"The configuration of .* cannot be read"),
    "config of no model": (
        put("config.json", '{"model_type": 5}'), r"The configuration of .* cannot be read",
    ),
    "config of odd types": (
        put("config.json", '{"model_type": "llama", "hidden_size": "many"}'), "cannot be read",
    ),
    "an empty tokenizer": (put("tokenizer.json", "{}"), r"The tokenizer of .* cannot be loaded"),
    "a tokenizer of rubbish": (put("tokenizer.json", b"\x00\xff"), r"The tokenizer of .* cannot"),
    "a tokenizer's config that is a list": (
        put("tokenizer_config.json", "[]"), r"The tokenizer of .* cannot be loaded",
    ),
    "BERT": (replaced_by_bert, r"is an encoder \(BertLMHeadModel\)"),
    "an EOS that the model lacks": (with_a_late_eos, r"<\|done\|> \(id 259\).*knows 259 tokens"),
    "a template that writes nothing": (
        put("chat_template.jinja", "{# nothing #}"), "does not write a message that is text",
    ),
    "a template that is no template": (
        put("chat_template.jinja", "{% for %}"), r"The chat template of",
    ),
    "a template that opens no response": (
        put("chat_template.jinja", WRITES_NO_PROMPT), "writes nothing of a conversation",
    ),
    "a template that counts too far": (
        put("chat_template.jinja", "{% for i in range(10**9) %}a{% endfor %}"),
        "cannot write a conversation: Range too big",
    ),
    "a template that divides by 0": (
        put("chat_template.jinja", "{{ 1 / 0 }}"), "cannot write a conversation: division by zero",
    ),
    "a template that calls itself": (
        put("chat_template.jinja", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"),
        "cannot write a conversation: maximum recursion depth",
    ),
    "another EOS that the model lacks": (
        put("generation_config.json", '{"eos_token_id": [2, 400]}'),
        r"generation_config\.json of .* with the token 400, and the model knows 259 tokens",
    ),
    "another EOS that is no id": (
        put("generation_config.json", '{"eos_token_id": "x"}'), "with the token 'x', and the model",
    ),
    "a length that is no number": (
        with_the_length("many"), "has the model_max_length 'many': give a number of tokens",
    ),
    "no text": (put("chat_template.jinja", ""), "no chat template"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_model_folder_is_refused_in_one_sentence(folder: Path, kind: str) -> None:
    damage, sentence = BROKEN[kind]
    damage(folder)
    with pytest.raises(UserError, match=sentence) as refused:
        _open(folder)
    assert "\n" not in str(refused.value) and str(folder) in str(refused.value)


LOOP = "{% for i in range(9**5) %}{% for j in range(9**5) %}{% endfor %}{% endfor %}"
POWER = "{{ 9 ** (9 ** 9) }}"  # which the interpreter cannot be stopped in
DOUBLES = (
    "{% set n = namespace(s='a') %}{% for i in range(40) %}{% set n.s = n.s * 2 %}{% endfor %}"
)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process are the kernel's")
@pytest.mark.parametrize(
    ("template", "most"),
    [
        (LOOP, "1 s"),
        ("{% if messages[3] %}" + POWER + "{% endif %}", "1 s"),
        ("{{ 'a' * 9**10 }}", "1 GiB of memory"),
        ("{% if tools %}{{ 'a'.center(9**10) }}{% endif %}", "1 GiB of memory"),
        (DOUBLES, "1 GiB of memory"),
    ],
)
def test_a_template_without_end_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, template: str, most: str
) -> None:
    # On a busy machine a GiB takes more than a second.
    monkeypatch.setattr(template_limits, "SECONDS", 1 if most == "1 s" else 60)
    put("chat_template.jinja", template + CHAT_TEMPLATE)(folder)
    with pytest.raises(UserError, match=f"cannot write a conversation: .* more than {most}, so"):
        load_tokenizer(str(folder))


def test_a_template_has_a_limit_of_its_own_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_limits, "BYTES", 1 << 26)
    put("chat_template.jinja", "{% set long = 'a' * 10**7 %}" + CHAT_TEMPLATE)(folder)
    before = [resource.getrlimit(limit) for limit in (resource.RLIMIT_CPU, resource.RLIMIT_AS)]
    load_tokenizer(str(folder))
    after = [resource.getrlimit(limit) for limit in (resource.RLIMIT_CPU, resource.RLIMIT_AS)]
    assert after == before


def test_a_child_that_only_waits_is_given_up_and_refuses_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_limits, "_PATIENCE", 1)
    monkeypatch.setattr(template_limits, "_write", lambda *_: time.sleep(30))
    put("chat_template.jinja", "{# Waits. #}" + CHAT_TEMPLATE)(folder)
    begun = time.monotonic()
    load_tokenizer(str(folder))
    assert time.monotonic() - begun < 20


def _open(folder: Path) -> None:
    """What a run does with a teacher, in the order in which it does it."""
    identity(str(folder))
    settings = SimpleNamespace(
        precision=Precision["float32"], quantization=None, attn_implementation="sdpa"
    )
    check_loading("teacher", model_in(folder), settings)
    encode_prompt(load_tokenizer(str(folder)), [{"role": "user", "content": "Hi"}])
    load_model(str(folder))


@pytest.mark.parametrize("content", [b"GGUF" + b"\xff" * 4096, b"GGUF\x03\x00\x00\x00", b""])
def test_a_gguf_file_of_rubbish_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tiny.gguf").write_bytes(content)
    with pytest.raises(
        UserError, match=r"tiny\.gguf' is no GGUF model that can be read"
    ) as refused:
        locate(str(tmp_path / "tiny.gguf"))
    assert "\n" not in str(refused.value)


def test_a_truncated_gguf_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "tiny.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes()[:-2000])
    with pytest.raises(UserError, match="is no GGUF model that can be read"):
        locate(str(tmp_path / "tiny.gguf"))


def test_a_causal_model_of_any_architecture_is_none_of_them(tmp_path: Path) -> None:
    for architecture in ("gpt_neox", "mamba", "opt", "gemma2"):  # the first says is_decoder=false
        model = build_model(architecture)
        model.save_pretrained(tmp_path / architecture)
        settings = SimpleNamespace(
            precision=Precision["float32"], quantization=None, attn_implementation="sdpa"
        )
        check_loading("teacher", model_in(tmp_path / architecture), settings)
        loaded = load_model(str(tmp_path / architecture), attn_implementation="sdpa")
        assert loaded.config._attn_implementation == model.config._attn_implementation
