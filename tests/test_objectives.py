"""One battery over every YAML in conf/objective/ and over the options that change a formula.

A new file is in it at once. What theory gives for some objectives only is in the tables below.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from ranked_lists import FIELDS, gradient, one_list, padded, random_lists, take, with_ranks

from rankdistill.objectives import Objective

CONF = Path(__file__).parents[1] / "conf" / "objective"
FILES = sorted(path.stem for path in CONF.glob("*.yaml"))
OPTIONS = {
    "rrhf rank term alone": ("rrhf", {"sft_weight": 0.0}),
    "rrhf summed": ("rrhf", {"length_exponent": 0.0, "sft_reduction": "sum"}),
    "pro rank term alone": ("pro", {"sft_weight": 0.0}),
    "pro without temperature": ("pro", {"sft_weight": 0.0, "reward_temperature": False}),
    "dpo conservative": ("dpo", {"label_smoothing": 0.2}),
    "dpo reference-free": ("dpo", {"reference_free": True}),
    "dpo rpo": ("dpo", {"nll_weight": 1.0}),
    "ipo normalised": ("ipo", {"length_normalised": True}),
    "plackett_luce top 2": ("plackett_luce", {"top_m": 2}),
    "lipo scores": ("lipo", {"labels": "scores", "discount": "log2"}),
    "slic rank term alone": ("slic", {"regulariser": 0.0}),
    "cpo rank term alone": ("cpo", {"nll_weight": 0.0}),
    "kto threshold": ("kto", {"score_threshold": 0.25}),
    "sft summed": ("sft", {"reduction": "sum"}),
}
CASES = {name: (name, {}) for name in FILES} | OPTIONS

# Objectives that see differences of logp / length**e only: the gradients times length**e sum to 0.
BALANCED = {
    "rrhf rank term alone": 1.0,
    "pro without temperature": 1.0,
    "dpo": 0.0,
    "dpo conservative": 0.0,
    "dpo reference-free": 0.0,
    "dpo_normalised": 1.0,
    "robust_dpo": 0.0,
    "hinge_dpo": 0.0,
    "ipo": 0.0,
    "ipo normalised": 1.0,
    "plackett_luce": 0.0,
    "plackett_luce top 2": 0.0,
    "lipo": 0.0,
    "lipo scores": 0.0,
    "listnet": 0.0,
    "simpo": 1.0,
    "slic rank term alone": 0.0,
    "cpo rank term alone": 0.0,
}
# What the score says beside the order: these are left out where only the order is to matter.
READS_MAGNITUDES = {"pro", "pro rank term alone", "lipo scores", "listnet", "kto threshold"}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def objective(case: str) -> Objective:
    return build(case)


def build(case: str) -> Objective:
    file, options = CASES[case]
    return instantiate(OmegaConf.load(CONF / f"{file}.yaml"), **options)


def assert_same(first: torch.Tensor, second: torch.Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-10)


def test_output_is_one_loss_and_one_metric_a_prompt(objective: Objective):
    assert isinstance(objective, Objective)
    assert 0 < objective.learning_rate < 1e-4  # type: ignore[attr-defined]
    candidates = random_lists()
    output = objective(candidates)
    assert output.loss.shape == (8,)
    assert {"rank_accuracy", "margin", "length_difference", "tie_share"} <= set(output.metrics)
    for name, metric in output.metrics.items():
        assert metric.shape == (8,), name
        assert metric.isfinite().all(), name
        assert not metric.requires_grad, name


@pytest.mark.parametrize("places", [[5, 5, 5], [0, 0], [1, 3, 5]], ids=["right", "left", "between"])
@pytest.mark.parametrize("ranked", [False, True], ids=["scores", "ranks"])
def test_padding_changes_nothing(objective: Objective, places: list[int], ranked: bool):
    candidates = with_ranks(random_lists()) if ranked else random_lists()
    wide = padded(candidates, places)
    loss, grad = gradient(objective, candidates)
    wide_loss, wide_grad = gradient(objective, wide)
    assert_same(wide_loss, loss)
    added = torch.isnan(wide.logps).all(dim=0)
    assert_same(wide_grad[:, ~added], grad)
    assert (wide_grad[~wide.mask] == 0).all()
    metrics, wide_metrics = objective(candidates).metrics, objective(wide).metrics
    for name, metric in metrics.items():
        assert_same(wide_metrics[name], metric)


def test_a_prompt_does_not_depend_on_its_batch(objective: Objective):
    candidates = random_lists()
    loss, grad = gradient(objective, candidates)
    for b in range(8):
        alone_loss, alone_grad = gradient(objective, take(candidates, slice(b, b + 1)))
        assert_same(alone_loss, loss[b : b + 1])
        assert_same(alone_grad, grad[b : b + 1])


@pytest.mark.parametrize("ranked", [False, True], ids=["scores", "ranks"])
def test_the_order_of_candidates_means_nothing(objective: Objective, ranked: bool):
    candidates = with_ranks(random_lists()) if ranked else random_lists()
    loss, grad = gradient(objective, candidates)
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        shuffled_loss, shuffled_grad = gradient(objective, take(candidates, (slice(None), order)))
        assert_same(shuffled_loss, loss)
        assert_same(shuffled_grad, grad[:, order])


def test_ranks_that_agree_with_the_scores_change_nothing(objective: Objective):
    candidates = random_lists()
    loss, grad = gradient(objective, candidates)
    ranked_loss, ranked_grad = gradient(objective, with_ranks(candidates))
    assert_same(ranked_loss, loss)
    assert_same(ranked_grad, grad)


@pytest.mark.parametrize("case", sorted(set(CASES) - {"kto threshold"}))
def test_the_order_is_that_of_the_ranks(case: str):
    objective = build(case)
    logps, reference = [-9.0, -8.0, -12.0, -7.0], [-8.0, -8.0, -10.0, -7.5]
    by_ranks = one_list(logps, [3, 2, 1, 0], reference=reference, ranks=[3, 2, 1, 0])
    by_scores = one_list(logps, [0, 1, 2, 3], reference=reference)
    for mine, expected in zip(
        gradient(objective, by_ranks), gradient(objective, by_scores), strict=True
    ):
        assert_same(mine, expected)


def test_only_the_order_matters_where_magnitudes_are_not_read(case: str, objective: Objective):
    candidates = random_lists()
    stretched = replace(candidates, scores=candidates.scores.exp() * 7 - 100)
    same = torch.allclose(objective(candidates).loss, objective(stretched).loss, rtol=1e-10)
    assert same == (case not in READS_MAGNITUDES)


def test_it_is_pure(objective: Objective):
    candidates = with_ranks(random_lists())
    before = {name: getattr(candidates, name).clone() for name in FIELDS}
    state = torch.get_rng_state()
    first, second = objective(candidates), objective(candidates)
    assert torch.equal(torch.get_rng_state(), state)
    for name in FIELDS:
        assert torch.equal(getattr(candidates, name), before[name]), name
    assert torch.equal(first.loss, second.loss)


def test_a_prompt_without_a_pair_has_no_ranking_loss(case: str, objective: Objective):
    output = objective(random_lists())
    if case != "kto threshold" and "rank_loss" in output.metrics:
        assert output.metrics["rank_loss"][:2].tolist() == [0.0, 0.0]
    assert output.metrics["rank_accuracy"][:2].tolist() == [0.5, 0.5]
    assert output.metrics["tie_share"][:2].tolist() == [0.0, 1.0]


def test_a_prompt_that_is_all_padding_is_zero(objective: Objective):
    candidates = random_lists()
    empty = replace(candidates, mask=torch.zeros_like(candidates.mask))
    loss, grad = gradient(objective, padded(empty, [2]))
    assert (loss == 0).all()
    assert (grad == 0).all()


def test_pairs_of_equal_responses_pull_nowhere(case: str, objective: Objective):
    """A duplicate with another score: the two gradients differ by the likelihood term alone."""
    if case in BALANCED:
        twice = one_list([-9.0, -9.0], [1.0, 0.0], reference=[-8.0, -8.0])
        loss, grad = gradient(objective, twice)
        assert loss.isfinite().all()
        assert_same(grad.sum(), torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("ties", [False, True])
def test_extremes_are_finite(objective: Objective, ties: bool):
    big = [-1e4, -1.0, -1e4, -0.0, -5e3]
    candidates = one_list(
        big,
        [1e3, 0.0, 0.0, -1e3, 1e3] if ties else [1e3, 500.0, 0.0, -1e3, -500.0],
        lengths=[1, 1, 10_000, 1, 1],
        reference=[-1.0, -1e4, -1e4, -1e4, 0.0],
    )
    for dtype in (torch.float32, torch.float64):
        extreme = replace(
            candidates,
            **{n: getattr(candidates, n).to(dtype) for n in ("logps", "scores", "reference_logps")},
        )
        loss, grad = gradient(objective, extreme)
        assert loss.isfinite().all()
        assert grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_it_computes_in_float32_at_least(objective: Objective, dtype: torch.dtype):
    names = ("logps", "scores", "reference_logps")
    candidates = random_lists()
    narrow = replace(candidates, **{n: getattr(candidates, n).to(dtype) for n in names})
    at_least = torch.promote_types(dtype, torch.float32)
    wide = replace(narrow, **{n: getattr(narrow, n).to(at_least) for n in names})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = objective(narrow)
    assert output.loss.dtype == at_least
    assert torch.equal(output.loss, objective(wide).loss)
    assert all(metric.dtype == at_least for metric in output.metrics.values())


def test_gradient_is_that_of_finite_differences(objective: Objective):
    # Without the duplicate: at equal values a hinge has a kink and LiPO's weights jump.
    candidates = take(random_lists(), [0, 1, 3, 4, 5, 6, 7])
    logps = candidates.logps.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: objective(replace(candidates, logps=x)).loss, (logps,)
    )


def test_the_best_is_pushed_up_and_the_worst_down(objective: Objective):
    """Near the reference, where no margin has reached its target."""
    reference = [-9.0, -8.0, -12.0, -7.0]
    logps = [-9.01, -8.02, -12.0, -7.03]
    candidates = one_list(logps, [2.0, 1.0, 0.5, -1.0], [9, 7, 11, 8], reference)
    _, grad = gradient(objective, candidates)
    assert grad[0, 0] < 0
    assert grad[0, 3] >= 0


@pytest.mark.parametrize("case", BALANCED)
def test_gradients_balance(case: str):
    candidates = random_lists()
    _, grad = gradient(build(case), candidates)
    assert grad.abs().max() > 0.01
    total = (grad * candidates.lengths ** BALANCED[case]).sum(dim=1)
    assert_same(total, torch.zeros_like(total))


@pytest.mark.parametrize("case", BALANCED)
def test_a_shift_of_all_candidates_changes_nothing(case: str):
    candidates = random_lists()
    shifted = candidates.logps + 3.0 * candidates.lengths ** BALANCED[case]
    moved = replace(candidates, logps=shifted)
    assert_same(build(case)(moved).loss, build(case)(candidates).loss)


@pytest.mark.parametrize("file", FILES)
def test_every_argument_is_in_the_yaml_under_a_comment(file: str):
    lines = (CONF / f"{file}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    keys = [line.split(":")[0] for line in lines if line and not line.startswith("#")]
    arguments = [field.name for field in fields(build(file))]  # type: ignore[arg-type]
    assert keys == ["_target_", *arguments]
    assert all(
        lines[lines.index(line) - 1].startswith("#")
        for line in lines
        if ":" in line and line[0] != "#"
    )


@pytest.mark.parametrize("file", sorted(set(FILES) - {"dpo_normalised", "rpo"}))
def test_the_yaml_holds_the_defaults_of_the_class(file: str):
    objective = build(file)
    assert objective == type(objective)()
