"""Entropy, KL and the matching temperature against brute force on full logits, in float64."""

from __future__ import annotations

import pytest
import torch
from tiny_models import build_model

from rankdistill.evaluate.tokens import (
    batches_of,
    entropy_and_divergence,
    matching_temperature,
    mean_entropy,
    policy_values,
    token_entropy,
)
from rankdistill.forward import TokenGroup, bind, collate

GROUPS = [
    TokenGroup([5, 9, 30, 7], [[11, 12, 13, 2], [40, 2], [8, 8, 8, 8, 8, 8, 2]]),
    TokenGroup([100, 3], [[60, 61, 62], [2]]),
    TokenGroup([17, 18, 19, 20, 21, 22], [[200, 201, 202, 203, 2], [33, 34, 2]]),
]


def model_in_float64(architecture: str = "llama", seed: int = 0):
    """Its logits are spread out, so that entropies are well below log V."""
    model = build_model(architecture, seed=seed).double()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(25.0)
    return bind(model, "shared")


def logits_by_hand(model, groups=GROUPS) -> torch.Tensor:
    """[N, V]: one plain forward per response, no grouping."""
    rows = []
    with torch.no_grad():
        for group in groups:
            for response in group.responses:
                ids = torch.tensor([[*group.prompt, *response]])
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
                rows.append(logits[len(group.prompt) - 1 : -1])
    return torch.cat(rows)


def entropy_by_hand(model, temperature: float, groups=GROUPS) -> torch.Tensor:
    return torch.distributions.Categorical(
        logits=logits_by_hand(model, groups) / temperature
    ).entropy()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_entropy_equals_full_logits(architecture, temperature):
    model = model_in_float64(architecture)
    found = token_entropy(model, collate(GROUPS), temperature)
    torch.testing.assert_close(found, entropy_by_hand(model, temperature), rtol=0, atol=1e-10)
    assert not found.requires_grad


@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (0.7, 1.3)])
def test_divergence_equals_full_logits(temperatures):
    p, q = model_in_float64(seed=0), model_in_float64(seed=1)
    found = entropy_and_divergence(p, q, [collate(GROUPS)], temperatures)
    log_p, log_q = (
        torch.log_softmax(logits_by_hand(m) / t, -1)
        for m, t in zip((p, q), temperatures, strict=True)
    )
    kl = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    entropy = float(entropy_by_hand(p, temperatures[0]).mean())
    assert found == pytest.approx((entropy, kl), abs=1e-10)


def divergence(p, q, batches) -> float:
    return entropy_and_divergence(p, q, batches)[1]


def test_divergence_from_itself_is_zero_and_from_another_is_not():
    p, q = model_in_float64(seed=0), model_in_float64(seed=1)
    assert divergence(p, p, [collate(GROUPS)]) == 0.0
    assert divergence(p, q, [collate(GROUPS)]) > 0.01


def test_divergence_between_tables_of_two_sizes_uses_the_shared_ids():
    p, q = model_in_float64(seed=0), model_in_float64(seed=0)
    q.resize_token_embeddings(len(q.get_input_embeddings().weight) + 8)
    assert divergence(p, q, [collate(GROUPS)]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("budget", "count"), [(1, 3), (20, 2), (10_000, 1)])
def test_means_are_over_tokens_whatever_the_budget(budget, count):
    p, q = model_in_float64(seed=0), model_in_float64(seed=1)
    batches = list(batches_of(GROUPS, max_batch_tokens=budget))
    assert len(batches) == count
    by_hand = entropy_by_hand(p, 1.0)
    assert mean_entropy(p, batches) == pytest.approx(float(by_hand.mean()), abs=1e-10)
    whole = divergence(p, q, [collate(GROUPS)])
    assert divergence(p, q, batches) == pytest.approx(whole, abs=1e-10)


def test_chunks_change_nothing(monkeypatch):
    p, q = model_in_float64(seed=0), model_in_float64(seed=1)
    whole = divergence(p, q, [collate(GROUPS)]), token_entropy(p, collate(GROUPS))
    monkeypatch.setattr("rankdistill.evaluate.tokens.CHUNK", 3)
    pieces = divergence(p, q, [collate(GROUPS)]), token_entropy(p, collate(GROUPS))
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-12)


def test_dropout_is_off_while_measuring_and_the_mode_is_put_back():
    model = model_in_float64("gpt2")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    expected = token_entropy(model, collate(GROUPS))
    model.train()
    torch.testing.assert_close(token_entropy(model, collate(GROUPS)), expected, rtol=0, atol=0)
    assert model.training


def test_policy_values_are_mean_log_probabilities():
    model = model_in_float64()
    values = policy_values(model, batches_of(GROUPS, max_batch_tokens=20))
    assert [len(row) for row in values] == [3, 2, 2]
    logps = torch.log_softmax(logits_by_hand(model), -1)
    targets = torch.tensor([t for g in GROUPS for r in g.responses for t in r])
    taken = logps.gather(1, targets[:, None])[:, 0]
    lengths = [len(r) for g in GROUPS for r in g.responses]
    expected = [float(part.mean()) for part in taken.split(lengths)]
    assert [v for row in values for v in row] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("planted", [0.45, 0.8, 1.0, 1.9])
def test_matching_temperature_recovers_a_planted_one(planted):
    model = model_in_float64()
    target = float(entropy_by_hand(model, planted).mean())
    found = matching_temperature(model, [collate(GROUPS)], target, tolerance=1e-8)
    assert found.matched
    assert found.temperature == pytest.approx(planted, rel=1e-6)
    assert found.entropy == pytest.approx(target, abs=1e-6)


def test_matching_temperature_takes_the_bound_where_the_target_is_out_of_reach():
    found = matching_temperature(model_in_float64(), [collate(GROUPS)], 100.0, bounds=(0.5, 2.0))
    assert not found.matched
    assert found.temperature == 2.0
    assert found.entropy < 100.0


def test_matching_temperature_is_close_on_a_part_of_the_rows():
    model = model_in_float64()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 259, (40, 20), generator=generator).tolist()
    groups = [TokenGroup(row[:4], [row[4:]]) for row in ids]
    target = float(entropy_by_hand(model, 0.7, groups).mean())
    found = matching_temperature(model, [collate(groups)], target, max_rows=200)
    assert found.temperature == pytest.approx(0.7, rel=0.05)


def test_nothing_to_average_over_is_said():
    model = model_in_float64()
    with pytest.raises(ValueError, match="no response token"):
        mean_entropy(model, [])
    with pytest.raises(ValueError, match="no response token"):
        matching_temperature(model, [], 1.0)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        token_entropy(model, collate(GROUPS), 0.0)
    with pytest.raises(ValueError, match="base temperature"):
        matching_temperature(model, [collate(GROUPS)], 1.0, base_temperature=9.0)
