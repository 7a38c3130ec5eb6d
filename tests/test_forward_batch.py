"""Groups as tensors: what each layout holds, what it costs, what is refused."""

from __future__ import annotations

import pytest
import torch

from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup, collate, micro_batches, token_count
from rankdistill.forward.batch import AttentionPlan, ResponseRows, Segment

GROUPS = [TokenGroup([10, 11], [[20, 21], [30]]), TokenGroup([12], [[40, 41]])]


def test_shared_holds_a_prompt_once() -> None:
    batch = collate(GROUPS, "shared")
    assert batch.input_ids.tolist() == [[10, 11, 20, 21, 30, 12, 40, 41]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2, 0, 1, 2]]
    # 20 and 30 are both predicted by the prompt's last token, 11.
    assert batch.predictors.tolist() == [1, 2, 1, 5, 6]
    assert batch.plan is not None
    # The lone response continues its prompt.
    assert batch.plan.segments == (Segment(2, (2, 1)), Segment(3))


def test_packed_repeats_the_prompt() -> None:
    batch = collate(GROUPS, "packed")
    assert batch.input_ids.tolist() == [[10, 11, 20, 21, 10, 11, 30, 12, 40, 41]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 2]]
    assert batch.predictors.tolist() == [1, 2, 5, 7, 8]


def test_padded_fills_rows_on_the_right() -> None:
    batch = collate(GROUPS, "padded")
    assert batch.input_ids.tolist() == [[10, 11, 20, 21], [10, 11, 30, 0], [12, 40, 41, 0]]
    assert batch.predictors.tolist() == [1, 2, 5, 8, 9]
    assert batch.attention_mask is not None and batch.plan is None
    assert batch.attention_mask.int().tolist() == [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]]


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
def test_response_tokens_come_in_one_order(layout: str) -> None:
    batch = collate(GROUPS, layout)
    assert (batch.B, batch.C) == (2, 2)
    assert batch.targets.tolist() == [20, 21, 30, 40, 41]
    assert batch.candidate.tolist() == [0, 0, 1, 2, 2]
    assert batch.lengths.tolist() == [[2, 1], [2, 0]]
    assert batch.mask.tolist() == [[True, True], [True, False]]
    again = batch.in_layout("shared").in_layout(layout)
    assert torch.equal(again.input_ids, batch.input_ids)


def test_a_batch_moves_as_a_whole() -> None:
    moved = collate(GROUPS, "padded").to("meta")
    tensors = [x for x in vars(moved).values() if isinstance(x, torch.Tensor)]
    assert len(tensors) == 7 and all(x.is_meta for x in tensors)


def test_a_group_costs_what_the_model_computes() -> None:
    costs = [token_count(GROUPS[0], layout) for layout in ("shared", "packed", "padded")]
    assert costs == [2 + 3, 2 * 2 + 3, 2 * 4]


def test_micro_batches_keep_the_order_and_the_budget() -> None:
    short, long = TokenGroup([1], [[2], [3]]), TokenGroup([1, 1], [[2] * 4, [3] * 4])
    groups = [short, short, long, short]  # shared 3, 3, 10, 3
    assert micro_batches(groups, 6, "shared") == [[0, 1], [2], [3]]
    assert micro_batches(groups, 13, "shared") == [[0, 1], [2, 3]]
    # Padded, the long group widens the rows it shares a batch with: 6 rows of 6.
    assert micro_batches(groups, 35, "padded") == [[0, 1], [2, 3]]
    assert micro_batches(groups, 36, "padded") == [[0, 1, 2], [3]]
    assert micro_batches([], 5, "shared") == []


def test_a_window_counts_positions_not_places() -> None:
    plan = AttentionPlan((Segment(4, (1, 3)),))
    mask = plan.response_mask(0, 3, torch.device("cpu"))
    # Rows: positions 4, 5, 6 of a response; columns: prompt 0 to 3, then the response's own.
    assert mask.int().tolist() == [
        [0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 1, 1, 1],
    ]
    prompt = plan.prompt_mask(0, 2, torch.device("cpu"))
    assert prompt is not None
    assert prompt.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert plan.prompt_mask(0, 4, torch.device("cpu")) is None
    assert plan.reaches(0, 7) and plan.reaches(0, None) and not plan.reaches(0, 6)


def test_rows_spread_and_join_ragged_responses() -> None:
    rows = AttentionPlan((Segment(4, (1, 3)),)).rows(0, torch.device("cpu"))
    tokens = torch.arange(1.0, 5.0).view(1, 1, 4, 1)
    spread = rows.spread(tokens)
    assert spread[:, 0, :, 0].tolist() == [[1, 0, 0], [2, 3, 4]]
    assert torch.equal(rows.join(spread), tokens)
    even = ResponseRows(2, 2, None)
    assert torch.equal(even.join(even.spread(tokens)), tokens)


@pytest.mark.parametrize(
    ("groups", "layout", "message"),
    [
        (GROUPS, "shard", "There is no layout 'shard'; did you mean 'shared'"),
        ([], "shared", "at least one group"),
        ([GROUPS[0], TokenGroup([], [[1]])], "shared", "prompt of group 1 .* has no token"),
        ([TokenGroup([1], [])], "packed", "Group 0 .* has no response"),
        ([TokenGroup([1], [[2], []])], "padded", "Response 1 of group 0 .* has no token"),
    ],
)
def test_mistakes_are_named(groups: list[TokenGroup], layout: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        collate(groups, layout)


@pytest.mark.parametrize("ask", [token_count, lambda g, layout: micro_batches([g], 9, layout)])
def test_an_unknown_layout_costs_nothing(ask) -> None:
    with pytest.raises(UserError, match="did you mean 'packed'"):
        ask(GROUPS[0], "pack")
