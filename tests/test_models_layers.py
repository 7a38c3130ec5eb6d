"""Smaller models made of some layers of a larger one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import build_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
)

from rankdistill.errors import UserError
from rankdistill.models import (
    evenly_spaced_layers,
    first_layers,
    influential_layers,
    keep_layers,
    layer_influence,
    save_model,
)

SMALL = {
    "vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4,
    "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2,
}  # fmt: skip
WINDOWED = {
    "mistral": MistralConfig(**SMALL),
    "gemma3": Gemma3TextConfig(**SMALL, query_pre_attn_scalar=8, sliding_window_pattern=3),
    "qwen2-windowed": Qwen2Config(**SMALL, use_sliding_window=True, max_window_layers=2),
}
ARCHITECTURES = ["llama", "qwen2", "qwen3", "gpt2", *WINDOWED]
IDS = torch.tensor([[5, 9, 17, 33, 101, 12, 7, 250]])


def six_layers(architecture: str) -> PreTrainedModel:
    if architecture not in WINDOWED:
        return build_model(architecture, layers=6)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(WINDOWED[architecture]).eval()


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kept_layers_compute_what_they_did_and_load_elsewhere(
    architecture: str, tokenizer, tmp_path: Path
) -> None:
    """Against the same model with the other layers replaced by nothing."""
    model, indices = six_layers(architecture), [0, 2, 5]
    before = logits(model)
    student = keep_layers(model, indices)
    assert student.config.num_hidden_layers == 3
    torch.testing.assert_close(logits(model), before, rtol=0, atol=0)

    skipping = six_layers(architecture)
    layers = skipping.base_model.h if architecture == "gpt2" else skipping.base_model.layers
    for index in {0, 1, 2, 3, 4, 5} - set(indices):
        layers[index].forward = lambda hidden_states, *args, **kwargs: hidden_states
    torch.testing.assert_close(logits(student), logits(skipping), rtol=0, atol=0)

    save_model(student, tokenizer, tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(reloaded), logits(student), rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_smaller_model_generates_with_its_cache(architecture: str) -> None:
    """Layers are renumbered, so that each finds its own place in the cache."""
    student = keep_layers(six_layers(architecture), [1, 4])
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    cached = student.generate(IDS, **options)  # type: ignore[operator]
    recomputed = student.generate(IDS, use_cache=False, **options)  # type: ignore[operator]
    assert cached.tolist() == recomputed.tolist()


def test_attention_types_are_cut_with_their_layers() -> None:
    model = six_layers("gemma3")
    kinds = model.config.layer_types
    student = keep_layers(model, [1, 2, 5])
    assert student.config.layer_types == [kinds[1], kinds[2], kinds[5]]
    assert len(set(student.config.layer_types)) == 2


def test_a_smaller_model_shares_no_weight_with_its_source_and_stays_tied() -> None:
    model = build_model("llama")
    student = keep_layers(model, [0, 2])
    storages = {p.data_ptr() for p in model.parameters()}
    assert not storages & {p.data_ptr() for p in student.parameters()}
    assert student.lm_head.weight is student.model.embed_tokens.weight


@pytest.mark.parametrize("indices", [[], [0, 0], [2, 1], [0, 3], [-1]])
def test_impossible_layers_are_refused(indices: list[int]) -> None:
    with pytest.raises(UserError, match="ascending numbers from 0 to 2"):
        keep_layers(build_model("llama"), indices)


def test_influence_of_rows_is_the_mean_over_real_tokens() -> None:
    """Ragged prompts in one batch against one at a time, from `output_hidden_states`."""
    model = build_model("llama").double()
    prompts = [[5, 9, 17], [33, 101, 12, 7, 250, 44], [8]]
    totals, tokens = torch.zeros(3, dtype=torch.float64), 0
    for prompt in prompts:
        with torch.no_grad():
            states = list(model(torch.tensor([prompt]), output_hidden_states=True).hidden_states)
            layer = model.model.layers[-1]
            rotary = model.model.rotary_emb(states[2], torch.arange(len(prompt))[None])
            # transformers puts the last state through the final norm.
            states[3] = layer(states[2], position_embeddings=rotary)
        for index in range(3):
            cosine = nn.functional.cosine_similarity(states[index], states[index + 1], dim=-1)
            totals[index] += (1 - cosine).sum()
        tokens += len(prompt)
    expected = (totals / tokens).tolist()
    assert layer_influence(model, prompts) == pytest.approx(expected, abs=1e-6)


def test_influence_does_not_depend_on_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("gpt2")
    prompts = [list(range(3, 3 + length)) for length in (4, 9, 2, 17, 9, 5)]
    whole = layer_influence(model, prompts)
    monkeypatch.setattr("rankdistill.models.layers._BATCH_TOKENS", 12)
    assert layer_influence(model, prompts) == pytest.approx(whole, abs=1e-6)


def test_a_layer_that_does_nothing_has_no_influence() -> None:
    model = build_model("llama")
    layer = model.model.layers[1]
    nn.init.zeros_(layer.self_attn.o_proj.weight)
    nn.init.zeros_(layer.mlp.down_proj.weight)
    influence = layer_influence(model, [[5, 6, 7, 8]])
    assert influence[1] == pytest.approx(0, abs=1e-6)
    assert influential_layers(influence, 2) == [0, 2]


def test_influential_layers_come_in_their_own_order() -> None:
    assert influential_layers([0.5, 0.1, 0.9, 0.2, 0.5], 3) == [0, 2, 4]
    assert influential_layers([0.3, 0.3, 0.3], 2) == [0, 1]
    assert influential_layers([0.3, 0.1], 2) == [0, 1]


def test_evenly_spaced_layers_reach_from_first_to_last() -> None:
    assert evenly_spaced_layers(12, 6) == [0, 2, 4, 7, 9, 11]
    assert evenly_spaced_layers(30, 30) == list(range(30))
    assert evenly_spaced_layers(5, 1) == [0]
    for layers in range(1, 40):
        for keep in range(1, layers + 1):
            assert len(set(evenly_spaced_layers(layers, keep))) == keep


def test_first_layers_have_the_states_of_the_whole_model() -> None:
    assert first_layers(5, 2) == [0, 1]
    model = six_layers("llama")
    states = model(IDS, output_hidden_states=True).hidden_states
    kept = keep_layers(model, first_layers(6, 2))(IDS, output_hidden_states=True).hidden_states
    assert torch.equal(kept[1], states[1])  # after the first; the last is normalised
    assert torch.allclose(kept[2], model.model.norm(states[2]))


@pytest.mark.parametrize("keep", [0, -1, 4])
def test_keeping_more_layers_than_there_are_or_none_is_refused(keep: int) -> None:
    for choose in (
        lambda: influential_layers([0.1, 0.2, 0.3], keep),
        lambda: evenly_spaced_layers(3, keep),
        lambda: first_layers(3, keep),
    ):
        with pytest.raises(UserError, match=f"{keep} layers cannot be kept of a model with 3"):
            choose()
