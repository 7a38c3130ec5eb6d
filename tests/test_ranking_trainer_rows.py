"""What RankingTrainer takes as rows, and what it refuses by name."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from ranking_trainer_data import EOS, TOKENIZER, config, logged, ragged_groups, trained
from tiny_models import build_model

from rankdistill import RankingTrainer
from rankdistill.errors import UserError
from rankdistill.models import encode_prompt, encode_response
from rankdistill.objectives import DPO
from rankdistill.train.groups import RankedGroups, load_groups, ranked_group
from rankdistill.train.ranking import candidates

USER = [{"role": "user", "content": "Why?"}]
YES = [{"role": "assistant", "content": "Because."}]
A = {"text": "a", "score": 1.0}
NO = [{"role": "assistant", "content": "No."}]


def group(*responses, **more):
    return {"prompt_id": "abc", "messages": USER, "responses": list(responses), **more}


def test_token_ids_stay_as_they_are_and_text_gets_eos_once():
    row = group(
        {"token_ids": [5, 6], "text": TOKENIZER.decode([5, 6]), "score": 1.0},
        {"text": "Hi.", "score": 0.0},
        {"text": "Hi.<|im_end|>", "token_ids": None, "finish_reason": "stop", "score": 0.5},
        {"text": "cut of", "token_ids": [], "finish_reason": "length", "score": -1.0},
    )
    tokens = ranked_group(row, 0, TOKENIZER).tokens
    prompt, responses = list(tokens.prompt), [list(ids) for ids in tokens.responses]
    assert prompt == encode_prompt(TOKENIZER, USER)
    assert responses[0] == [5, 6]
    assert responses[1] == responses[2] == encode_response(TOKENIZER, "Hi.")
    assert responses[2].count(EOS) == 1
    assert responses[3] == encode_response(TOKENIZER, "cut of")[:-1] and EOS not in responses[3]


def test_ids_of_another_tokenizer_are_written_again_and_counted(capsys):
    """They were trained on as they are: 9906 is beyond this vocabulary, 7 and 8 are other text."""
    row = group(
        {"token_ids": [9906, 13], "text": "Hi.", "score": 1.0},
        {"token_ids": [7, 8], "text": "No.", "score": 0.0},
        {"token_ids": TOKENIZER("Yes.")["input_ids"], "text": "Yes.", "score": 0.5},
    )
    [made] = load_groups([row], TOKENIZER, None)
    expected = [encode_response(TOKENIZER, text) for text in ("Hi.", "No.")]
    assert [list(ids) for ids in made.tokens.responses[:2]] == expected
    assert list(made.tokens.responses[2]) == TOKENIZER("Yes.")["input_ids"]
    assert "2 responses brought token ids of another tokenizer" in capsys.readouterr().out


def test_scores_and_ranks_give_each_other():
    texts = [{"text": text} for text in "abcd"]
    scored = group(*[{**t, "score": s} for t, s in zip(texts, [1, 3, 1, 2], strict=True)])
    assert ranked_group(scored, 0, TOKENIZER).ranks == (2, 0, 2, 1)
    order = group(
        *[{**t, "rank": r, "score": None} for t, r in zip(texts, [1, 0, 1, 2], strict=True)]
    )
    assert ranked_group(order, 0, TOKENIZER).scores == (-1.0, 0.0, -1.0, -2.0)
    both = group(*[{**t, "rank": 0, "score": s} for t, s in zip(texts, [1, 3, 1, 2], strict=True)])
    assert ranked_group(both, 0, TOKENIZER).ranks == (0, 0, 0, 0)
    assert ranked_group(both, 0, TOKENIZER).scores == (1.0, 3.0, 1.0, 2.0)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
        {"prompt": USER, "chosen": YES, "rejected": NO},
        {"prompt": "Why?", "chosen": USER + YES, "rejected": USER + NO},
        {"prompt": None, "chosen": USER + YES, "rejected": USER + NO},
        {"chosen": USER + YES, "rejected": USER + NO, "score_chosen": 7.0},
    ],
)
def test_preference_rows_are_groups_of_two(row):
    made = ranked_group(row, 3, TOKENIZER)
    assert made.prompt_id == "row 3"
    assert list(made.tokens.prompt) == encode_prompt(TOKENIZER, USER)
    expected = [encode_response(TOKENIZER, text) for text in ("Because.", "No.")]
    assert [list(ids) for ids in made.tokens.responses] == expected
    assert made.scores == (1.0, 0.0) and made.ranks == (0, 1)


def test_longer_conversations_before_the_response():
    before = [*USER, {"role": "assistant", "content": "Hm?"}, {"role": "user", "content": "Why!"}]
    for row in (
        {"prompt": before, "chosen": YES, "rejected": NO},
        {"prompt": before, "chosen": before + YES, "rejected": before + NO},
        {"prompt": before[:1], "chosen": before[1:] + YES, "rejected": before[1:] + NO},
    ):
        made = ranked_group(row, 0, TOKENIZER)
        assert list(made.tokens.prompt) == encode_prompt(TOKENIZER, before)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (group(A), "Prompt 'abc' has fewer than two distinct responses"),
        (group(A, {**A, "token_ids": encode_response(TOKENIZER, "a")}), "fewer than two distinct"),
        (group(A, {"text": "b"}), "Prompt 'abc' has a response without a score"),
        (
            group(A, {"text": "b", "score": float("nan")}),
            "Prompt 'abc' has a score that is not a number",
        ),
        (
            group({"text": "a", "rank": 1}, {"text": "b", "rank": 0}, reference_logps=[1.0]),
            "Prompt 'abc' has 2 responses but its `reference_logps` are",
        ),
        ({"text": "a", "label": 1}, "Row 4 has the columns text, label"),
        (group(messages=[]), "Row 4 has the columns"),
        ({"prompt": "p", "chosen": [], "rejected": NO}, "Row 4 has an empty `chosen`"),
        ({"chosen": "a", "rejected": "b"}, "without a common prompt"),
        ({"chosen": [*USER, *USER, *YES], "rejected": USER + NO}, "without a common prompt"),
    ],
)  # fmt: skip
def test_refused_by_name(row, message):
    with pytest.raises(UserError, match=message):
        ranked_group(row, 4, TOKENIZER)


def test_too_long_groups_are_left_out_and_counted(capsys, tmp_path):
    rows = ragged_groups(12)
    lengths = sorted(ranked_group(row, 0, TOKENIZER).length for row in rows)
    limit = lengths[5]
    kept = load_groups(rows, TOKENIZER, limit)
    fit = sum(length <= limit for length in lengths)
    assert len(kept) == fit and all(group.length <= limit for group in kept)
    said = " ".join(capsys.readouterr().out.split())
    assert f"Left out {12 - fit} of 12 prompts" in said and f"longer than {limit} tokens" in said
    assert len(load_groups(rows, TOKENIZER, None)) == 12
    with pytest.raises(UserError, match=f"All 12 prompts are longer than {lengths[0] - 1} tokens"):
        load_groups(rows, TOKENIZER, lengths[0] - 1)
    trainer = RankingTrainer(
        build_model(), config(tmp_path, max_length=limit), rows, processing_class=TOKENIZER
    )
    assert len(trainer.train_dataset) == fit


def test_nothing_is_longer_than_the_model_s_context(tmp_path):
    model = build_model("gpt2")
    model.config.n_positions = 60
    long = {"prompt": "a" * 70, "chosen": "b", "rejected": "c"}
    short = {"prompt": "a", "chosen": "b", "rejected": "c"}
    trainer = RankingTrainer(
        model, config(tmp_path, max_length=400), [long, short], processing_class=TOKENIZER
    )
    assert len(trainer.train_dataset) == 1


def test_a_table_is_the_same_as_a_list(tmp_path):
    rows = ragged_groups(5)
    args = config(tmp_path, per_device_train_batch_size=2)
    listed = trained(build_model(), copy.deepcopy(rows), args)
    table = trained(build_model(), Dataset.from_list(rows), args)
    assert logged(table) == logged(listed)
    pairs = Dataset.from_list([{"prompt": USER, "chosen": YES, "rejected": NO}] * 3)
    assert logged(trained(build_model(), pairs, args, objective=DPO()))[0] == pytest.approx(
        0.693147
    )


def test_rows_that_stay_on_the_disk_are_read_once_for_an_evaluation(tmp_path):
    class Disk(list):
        reads = 0

        def __getitem__(self, place):
            self.reads += 1
            return super().__getitem__(place)

    disk = Disk(ragged_groups(4))
    groups = RankedGroups(disk, TOKENIZER, range(4))
    args = config(tmp_path, per_device_eval_batch_size=2)
    trainer = RankingTrainer(
        build_model(layers=1), args, ragged_groups(1), processing_class=TOKENIZER,
        eval_dataset=groups,
    )  # fmt: skip
    disk.reads = 0
    trainer.evaluate()
    assert disk.reads == 4


def test_padding_of_the_candidates():
    groups = load_groups(ragged_groups(6), TOKENIZER, None)
    most = max(len(group.scores) for group in groups)
    lengths = torch.tensor([[1] * len(g.scores) + [0] * (most - len(g.scores)) for g in groups])
    output = SimpleNamespace(logps=torch.zeros(6, most), lengths=lengths)
    made = candidates(groups, output)
    assert torch.equal(made.mask, lengths > 0) and made.reference_logps is None
    assert made.scores.dtype == torch.float64
    for row, of_group in enumerate(groups):
        count = len(of_group.scores)
        assert made.scores[row, :count].tolist() == list(of_group.scores)
        assert made.ranks[row, :count].tolist() == list(of_group.ranks)


@pytest.mark.parametrize("rows", [[], iter([])])
def test_no_rows(rows, tmp_path):
    with pytest.raises(UserError, match="The train_dataset is empty or streamed"):
        RankingTrainer(build_model(), config(tmp_path), rows, processing_class=TOKENIZER)


def test_no_tokenizer_and_no_data(tmp_path):
    with pytest.raises(UserError, match="needs the model's tokenizer"):
        RankingTrainer(build_model(), config(tmp_path), ragged_groups(2))
    trainer = RankingTrainer(build_model(), config(tmp_path), processing_class=TOKENIZER)
    with pytest.raises(UserError, match="needs a train_dataset"):
        trainer.train()
    with pytest.raises(UserError, match="needs an eval_dataset"):
        trainer.evaluate()
