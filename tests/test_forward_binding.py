"""A bound model stays the model it was: ordinary calls, generate, saving, adapters, copies."""

from __future__ import annotations

import copy
import inspect
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, dispatch_model
from accelerate.state import AcceleratorState
from forward_oracle import (
    assert_same_gradients,
    gradients,
    lively_model,
    oracle_logps,
    pair,
    ragged_groups,
)
from peft import LoraConfig, get_peft_model
from tiny_models import build_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from rankdistill.errors import UserError
from rankdistill.forward import LAYOUTS, bind, bound_layout, collate, response_logps

FAMILIES = ("llama", "qwen3", "gpt2", "mistral", "gemma2", "gemma3_text", "phi3", "smollm3")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_ordinary_calls_are_bit_identical(architecture: str, attention: str) -> None:
    plain, bound = build_model(architecture), build_model(architecture)
    if attention == "sdpa" and not plain._supports_sdpa:
        pytest.skip("transformers refuses it")
    for model in (plain, bound):
        model.set_attn_implementation(attention)
    bind(bound)
    response_logps(bound, collate(ragged_groups()))
    ids = torch.arange(3, 33).view(2, 15)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    for inputs in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}):
        with torch.no_grad():
            assert torch.equal(plain(**inputs).logits, bound(**inputs).logits)
        for options in ({"do_sample": False}, {"do_sample": True}, {"num_return_sequences": 3}):
            options = {"do_sample": "num_return_sequences" in options, **options}
            sampled = []
            for model in (plain, bound):
                torch.manual_seed(0)
                sampled.append(model.generate(**inputs, max_new_tokens=12, **options))
            assert torch.equal(*sampled)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_eager_models_follow_groups_too(architecture: str) -> None:
    groups = ragged_groups()
    model, oracle = lively_model(architecture).float(), lively_model(architecture)
    oracle.config._attn_implementation = "oracle"
    model.set_attn_implementation("eager")
    expected = oracle_logps(oracle, groups).float()
    bind(model)
    assert bound_layout(model) == "shared"
    for layout in LAYOUTS:
        logps = response_logps(model, collate(groups, layout)).token_logps
        torch.testing.assert_close(logps, expected, rtol=0, atol=1e-4)


def test_another_attention_chosen_after_binding_follows_too() -> None:
    groups = ragged_groups()
    model, oracle = pair("llama")
    model.set_attn_implementation("eager")
    logps = response_logps(model, collate(groups)).token_logps
    torch.testing.assert_close(logps, oracle_logps(oracle, groups), rtol=0, atol=1e-10)


def test_saving_knows_nothing_of_binding(tmp_path: Path) -> None:
    plain, bound = build_model("llama"), build_model("llama")
    bound.set_attn_implementation("eager")
    bind(bound)
    for model, name in ((plain, "plain"), (bound, "bound")):
        model.save_pretrained(tmp_path / name)
    assert plain.state_dict().keys() == bound.state_dict().keys()
    for file in ("config.json", "model.safetensors", "generation_config.json"):
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "bound" / file).read_bytes()
    groups = ragged_groups()
    again = bind(AutoModelForCausalLM.from_pretrained(tmp_path / "bound"))
    expected = response_logps(bound, collate(groups)).token_logps
    torch.testing.assert_close(response_logps(again, collate(groups)).token_logps, expected)


def test_binding_again_changes_the_layout_only() -> None:
    model = bind(build_model("llama"), "shared")
    forward = model.forward
    assert bound_layout(model) == "shared"
    assert bind(model, "packed") is model
    assert bound_layout(model) == "packed" and model.forward == forward


def test_the_signature_stays() -> None:
    plain, bound = build_model("llama"), bind(build_model("llama"))
    assert inspect.signature(plain.forward) == inspect.signature(bound.forward)


def test_a_dispatched_model_keeps_its_hooks() -> None:
    """As `device_map` makes it: accelerate has put a forward of its own into the model."""
    plain = build_model("llama")
    model = dispatch_model(build_model("llama"), {"": "cpu"}, force_hooks=True)
    assert "forward" in vars(model)
    bind(model)
    assert inspect.signature(plain.forward) == inspect.signature(model.forward)
    ids = torch.tensor([[4, 5, 6]])
    assert torch.equal(plain(ids).logits, model(ids).logits)
    batch = collate(ragged_groups())
    expected = response_logps(bind(plain), batch).token_logps
    assert torch.equal(response_logps(model, batch).token_logps, expected)


@pytest.mark.parametrize("keep", [True, False])
def test_accelerate_prepares_and_unwraps_a_bound_model(
    keep: bool, request: pytest.FixtureRequest
) -> None:
    batch = collate(ragged_groups())
    AcceleratorState._reset_state(reset_partial_state=True)  # a trainer of another test's
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    request.addfinalizer(lambda: AcceleratorState._reset_state(reset_partial_state=True))
    model = accelerator.prepare(bind(build_model("llama")))
    half = response_logps(model, batch).token_logps
    unwrapped = accelerator.unwrap_model(model, keep_fp32_wrapper=keep)
    whole = response_logps(unwrapped, batch).token_logps
    exact = response_logps(bind(build_model("llama")), batch).token_logps
    assert half.dtype == torch.float32 and not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, rtol=0, atol=0.1)
    assert torch.equal(whole, half if keep else exact)


def test_modes_and_random_numbers_are_left_alone() -> None:
    model = build_model("llama").train()
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    bind(model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.rand(2), expected)


def test_a_copy_is_bound_to_itself() -> None:
    """A reference is often a deep copy of the policy."""
    policy = bind(lively_model("llama"))
    reference = copy.deepcopy(policy)
    batch = collate(ragged_groups())
    before = response_logps(policy, batch).token_logps
    with torch.no_grad():
        policy.lm_head.weight.mul_(2.0)
    assert torch.equal(response_logps(reference, batch).token_logps, before)
    assert not torch.equal(response_logps(policy, batch).token_logps, before)


def adapted(model: Any, targets: list[str]) -> Any:
    config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(1)
    return get_peft_model(model, config, autocast_adapter_dtype=False).double()


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("order", ["bind, then adapt", "adapt, then bind"])
@pytest.mark.parametrize("targets", [["q_proj", "v_proj", "down_proj"], ["k_proj", "lm_head"]])
def test_adapters_before_and_after(order: str, targets: list[str]) -> None:
    groups = ragged_groups()
    oracle = lively_model("llama")
    oracle.config._attn_implementation = "oracle"
    oracle = adapted(oracle, targets)
    if order == "bind, then adapt":
        model = adapted(bind(lively_model("llama")), targets)
    else:
        model = adapted(lively_model("llama"), targets)
        assert bind(model) is model
    expected = oracle_logps(oracle, groups)
    wanted = gradients(oracle, expected)
    assert wanted and all("lora" in name for name in wanted)
    for layout in LAYOUTS:
        logps = response_logps(model, collate(groups, layout)).token_logps
        torch.testing.assert_close(logps, expected, rtol=0, atol=1e-10)
        assert_same_gradients(gradients(model, logps), wanted)
    with model.disable_adapter():
        unadapted = response_logps(model, collate(groups)).token_logps
    base = response_logps(bind(lively_model("llama")), collate(groups)).token_logps
    torch.testing.assert_close(unadapted, base, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("mamba", "layers other than attention"),
        ("lfm2", r"layers other than attention .* \(conv\)"),
        ("gpt_oss", "attention sinks"),
        ("bloom", "does not go through"),
        ("phimoe", "not told of the sliding window"),
    ],
)
def test_an_architecture_that_cannot_is_padded_and_says_so(
    architecture: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    groups = ragged_groups()
    model = build_model(architecture)
    with caplog.at_level(logging.WARNING, logger="rankdistill"):
        bind(model, "shared")
        bind(model, "shared")
    said = [r.getMessage() for r in caplog.records if r.name.startswith("rankdistill")]
    assert len(said) == 1
    assert re.match(f"{type(model).__name__} computes every batch padded: .*{reason}", said[0])
    assert bound_layout(model) == "padded"
    with torch.no_grad():
        expected = oracle_logps(build_model(architecture), groups)
        for layout in LAYOUTS:  # a batch in another layout is laid out again
            logps = response_logps(model, collate(groups, layout)).token_logps
            torch.testing.assert_close(logps, expected, rtol=0, atol=1e-4)


def test_a_soft_cap_is_kept_by_sdpa_in_every_layout() -> None:
    """Whose own function would leave it out."""
    groups = ragged_groups()
    model = lively_model("gemma2").float()
    for layer in model.model.layers:  # so low that it is felt
        layer.self_attn.attn_logit_softcapping = 0.01
    bind(model)
    assert model.config._attn_implementation == "sdpa" and bound_layout(model) == "shared"
    padded, shared = (
        response_logps(model, collate(groups, layout)).token_logps
        for layout in ("padded", "shared")
    )
    torch.testing.assert_close(padded, shared, rtol=0, atol=1e-4)


def test_weights_that_come_later_are_not_tried() -> None:
    with torch.device("meta"):
        model = bind(build_model("llama"), "shared")
    assert bound_layout(model) == "shared"


def test_an_unknown_architecture_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    """One layer attends by itself, whatever it is handed: only trying it shows that."""
    model = lively_model("llama")
    own = copy.copy(model.config)
    own._attn_implementation = "oracle"
    model.model.layers[1].self_attn.config = own
    bind(model)
    assert bound_layout(model) == "padded"
    assert "did not agree" in caplog.text


def test_mistakes_are_named() -> None:
    config = AutoConfig.for_model(
        "t5", vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2
    )
    with pytest.raises(UserError, match="encoder-decoder"):
        bind(AutoModelForSeq2SeqLM.from_config(config))
    with pytest.raises(UserError, match="no language-model head"):
        bind(build_model("llama").model)
    with pytest.raises(UserError, match="did you mean 'padded'"):
        bind(build_model("llama"), "padding")
    with pytest.raises(UserError, match="temperature 0 is not above 0"):
        response_logps(bind(build_model("llama")), collate(ragged_groups()), temperature=0)
    with pytest.raises(UserError, match="LlamaForCausalLM is not bound"):
        response_logps(build_model("llama"), collate(ragged_groups()))
