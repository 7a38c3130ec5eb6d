"""The grouped forward equals one sequence at a time: every layout, every architecture, float64."""

from __future__ import annotations

from collections import Counter

import pytest
import tiny_models
import torch
from forward_oracle import (
    assert_same_gradients,
    called_in_float64,
    gradients,
    lively_model,
    oracle_logps,
    pair,
    ragged_groups,
    slope,
)
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode

from rankdistill.forward import (
    LAYOUTS,
    TokenLogps,
    attention,
    bind,
    collate,
    response_logps,
    sum_by_candidate,
)
from rankdistill.forward import attention as merge
from rankdistill.trainer.modes import disable_dropout, enable_gradient_checkpointing

ARCHITECTURES = (
    "llama",
    "qwen2",
    "qwen3",
    "gpt2",
    "mistral",
    "gemma2",
    "gemma3_text",
    "phi",
    "phi3",
    "smollm3",
    "granite",
    "gpt_neox",
    "olmo2",
    "opt",
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layout_equals_one_sequence_at_a_time(architecture: str) -> None:
    groups, temperature = ragged_groups(), 0.7
    model, oracle = pair(architecture)
    expected = oracle_logps(oracle, groups, temperature)
    wanted = gradients(oracle, expected)
    for layout in LAYOUTS:
        logps = response_logps(model, collate(groups, layout), temperature=temperature).token_logps
        torch.testing.assert_close(logps, expected, rtol=0, atol=1e-10)
        assert_same_gradients(gradients(model, logps), wanted)


@pytest.mark.parametrize("architecture", ["cohere", "mixtral"])
def test_architectures_with_a_part_in_float32_follow_to_its_rounding(architecture: str) -> None:
    """Cohere rotates and Mixtral routes in float32, whatever the model's type."""
    groups = ragged_groups()
    model, oracle = pair(architecture)
    expected = oracle_logps(oracle, groups)
    wanted = gradients(oracle, expected)
    for layout in LAYOUTS:
        logps = response_logps(model, collate(groups, layout)).token_logps
        torch.testing.assert_close(logps, expected, rtol=0, atol=1e-5)
        assert_same_gradients(gradients(model, logps), wanted, 1e-5)


@pytest.mark.parametrize(
    ("architecture", "setting"),
    [
        ("mistral", {"sliding_window": 400}),
        ("gemma2", {"attn_logit_softcapping": None}),
        ("gemma2", {"final_logit_softcapping": None}),
        ("gemma3_text", {"sliding_window": 400}),
        ("phi3", {"sliding_window": 400}),
        ("smollm3", {"no_rope_layer_interval": 400}),
        ("granite", {"logits_scaling": 1.0}),
        ("cohere", {"logit_scale": 1.0}),
    ],
)
def test_what_an_architecture_adds_is_felt(
    architecture: str, setting: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without this, equality above would not show that the setting is respected."""
    groups = ragged_groups()
    batch = collate(groups)
    with torch.no_grad():
        present = response_logps(bind(lively_model(architecture)), batch).token_logps
        changed = {**tiny_models.EXTRA[architecture], **setting}
        monkeypatch.setitem(tiny_models.EXTRA, architecture, changed)
        absent = response_logps(bind(lively_model(architecture)), batch).token_logps
    assert (present - absent).abs().max() > 0.01


def test_the_masked_path_equals_the_merged_one(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = ragged_groups()
    model, oracle = pair("llama")
    expected = oracle_logps(oracle, groups)
    monkeypatch.setattr(merge, "available", lambda: False)
    logps = response_logps(model, collate(groups)).token_logps
    torch.testing.assert_close(logps, expected, rtol=0, atol=1e-10)
    assert_same_gradients(gradients(model, logps), gradients(oracle, expected))


def test_the_merged_path_is_taken_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert merge.available()
    calls = []
    monkeypatch.setattr(
        merge, "merged_attention", lambda *args: calls.append(args) or args[0][0].clone()
    )
    response_logps(bind(lively_model("llama")), collate(ragged_groups()))
    assert calls


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(architecture: str, reentrant: bool) -> None:
    groups = ragged_groups()
    model, oracle = pair(architecture)
    called_in_float64(model)
    wanted = gradients(oracle, oracle_logps(oracle, groups))
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    for layout in LAYOUTS:
        logps = response_logps(model, collate(groups, layout)).token_logps
        model(input_ids=torch.tensor([[5, 6, 7]]))  # an ordinary call before the recomputation
        assert_same_gradients(gradients(model, logps), wanted)


class Count(TorchDispatchMode):
    """How often an operation ran."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ran[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_selective_checkpointing_recomputes_no_product_and_changes_nothing(architecture) -> None:
    groups = ragged_groups()
    model, oracle = pair(architecture)
    wanted = gradients(oracle, oracle_logps(oracle, groups))
    model.train()
    ran = {}
    for choice in (False, "selective", True):
        model.gradient_checkpointing_disable()
        enable_gradient_checkpointing(model, choice)
        with Count() as count:
            logps = response_logps(model, collate(groups)).token_logps
            found = gradients(model, logps)
        assert_same_gradients(found, wanted)
        ran[choice] = count.ran
    assert ran["selective"]["mm"] == ran[False]["mm"] < ran[True]["mm"]
    assert ran["selective"]["rsqrt"] == ran[True]["rsqrt"] > ran[False]["rsqrt"]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_under_checkpointing_in_every_layout(architecture: str) -> None:
    """LoRA on all linear layers, ragged groups packed together, the sampling temperature."""
    groups, temperature = ragged_groups(), 1.3

    def adapted(model: torch.nn.Module) -> torch.nn.Module:
        config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        torch.manual_seed(1)
        return get_peft_model(model, config, autocast_adapter_dtype=False).double()  # type: ignore[arg-type]

    bound, plain = pair(architecture)
    model, oracle = adapted(bound), adapted(plain)
    expected = oracle_logps(oracle, groups, temperature)
    wanted = gradients(oracle, expected)
    assert len(wanted) >= 2 * 3 * 4 and all("lora" in name for name in wanted)
    disable_dropout(model.train())
    model.gradient_checkpointing_enable()
    for layout in LAYOUTS:
        logps = response_logps(model, collate(groups, layout), temperature=temperature).token_logps
        torch.testing.assert_close(logps, expected, rtol=0, atol=1e-10)
        assert_same_gradients(gradients(model, logps), wanted)


def test_micro_batches_add_up_to_the_batch() -> None:
    groups = ragged_groups()
    model, _ = pair("qwen2")
    whole = response_logps(model, collate(groups)).token_logps
    wanted = gradients(model, whole)
    weights = slope(len(whole))
    model.zero_grad()
    start = 0
    for part in ([0, 1], [2], [3, 4, 5]):
        logps = response_logps(model, collate([groups[i] for i in part])).token_logps
        (logps * weights[start : start + len(logps)]).sum().backward()
        start += len(logps)
    found = {n: p.grad for n, p in model.named_parameters()}
    assert start == len(whole)
    assert_same_gradients(found, wanted)


def test_sums_go_to_their_candidates() -> None:
    groups = ragged_groups()
    model, oracle = pair("llama")
    batch = collate(groups)
    result = response_logps(model, batch)
    expected = oracle_logps(oracle, groups)
    assert result.logps.shape == result.lengths.shape == (6, 4)
    start = 0
    for row, group in enumerate(groups):
        for column, response in enumerate(group.responses):
            assert result.lengths[row, column] == len(response)
            part = expected[start : start + len(response)].sum()
            torch.testing.assert_close(result.logps[row, column], part, rtol=0, atol=1e-10)
            start += len(response)
        assert (result.logps[row, len(group.responses) :] == 0).all()
    assert sum_by_candidate(torch.ones(len(expected)), batch).equal(batch.lengths.float())
    assert torch.equal(result.logps[5, 0], result.logps[5, 2])  # identical responses


def test_attention_dropout_is_passed_on() -> None:
    groups = ragged_groups()
    model = bind(lively_model("llama"))
    batch = collate(groups)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.4
    steady = response_logps(model, batch).token_logps
    assert torch.equal(steady, response_logps(model, batch).token_logps)
    model.train()
    torch.manual_seed(0)
    first = response_logps(model, batch).token_logps
    assert (first - steady).abs().max() > 0.01
    torch.manual_seed(0)
    assert torch.equal(first, response_logps(model, batch).token_logps)


def test_softcapped_attention_takes_additive_masks() -> None:
    """As an eager mask comes: 0 is seen, a very low number is not."""
    query, key, value = torch.randn(3, 2, 4, 5, 6, dtype=torch.float64).unbind()
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    added = torch.zeros(5, 5, dtype=torch.float64).masked_fill(~seen, torch.finfo().min)
    outs = [
        attention.softcapped_attention(query, key, value, mask, attention.AttentionOptions(), 2.0)
        for mask in (seen, added, None)
    ]
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])
    # A cap that no score comes near bends nothing.
    free = attention.softcapped_attention(
        query, key, value, None, attention.AttentionOptions(), 1e6
    )
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(free, plain)


@pytest.mark.parametrize("architecture", ["llama", "phi", "gemma2"])
@pytest.mark.parametrize(
    "head", [TokenLogps(0.7, chunk_rows=4), TokenLogps(0.7, chunk_rows=4, logits_budget=0)]
)
def test_chunks_kept_or_computed_again_change_nothing(architecture: str, head: TokenLogps) -> None:
    groups = ragged_groups()
    model, oracle = pair(architecture)
    expected = oracle_logps(oracle, groups, 0.7)
    logps = model(group_batch=collate(groups), head=head)
    torch.testing.assert_close(logps, expected, rtol=0, atol=1e-10)
    assert_same_gradients(gradients(model, logps), gradients(oracle, expected))
