"""A made-up run that looks like a real one, for the tests of the report and to look at it:

python tests/report_rows.py FOLDER [verified]
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.evaluate.model_figures import (
    ModelFigures,
    PromptScores,
    cut_share,
    group_distinct_2,
    mean_length,
    repetition,
)
from rankdistill.evaluate.verified import DemandRow, Verified
from rankdistill.report import RunReport, StageRecord, metrics_of, write_report
from rankdistill.rows import Group

PROMPTS = (
    "Name three things that float on water and say why they float.",
    "Rewrite politely: send me the file now!",
    "What is the capital of Australia, and why is it not Sydney?",
    "Explain to a child of six why the sky is blue.\nUse at most three sentences.",
    "Write a Python function that returns the second largest number of a list, without sorting it.",
    "List two advantages and two disadvantages of working at night.",
)
SENTENCE = (
    "the a water light answer is because of small which and in to often when people air can be "
    "blue particles scatter more than other colours float density less first second however it"
)

# name: label, temperature, mean score, mean length, entropy, KL to the baseline, KL to the teacher
MODELS: dict[str, tuple[str, float, float, float, float, float | None, float | None]] = {
    "start": ("before warm-up", 1.0, -4.3, 46.0, 2.81, 1.94, 2.613),
    "warmed_up": ("warmed up", 1.0, -1.62, 38.0, 1.72, None, 0.574),
    "trained": ("trained", 1.0, -1.31, 33.0, 1.38, 0.112, 0.601),
    "sharpened": ("same entropy, T=0.81", 0.81, -1.45, 36.0, 1.41, 0.061, 0.633),
    "teacher": ("teacher", 1.0, -0.98, 40.0, 1.12, 0.71, None),
}


def done(
    stage: str, what: str, key: str, making_seconds: float, reused: bool, counts: dict[str, Any]
) -> StageRecord:
    """A stage's record."""
    seconds = 0.01 if reused else making_seconds
    return StageRecord(stage, what, key, seconds, making_seconds, reused, counts, {})


def held_out_groups(name: str, prompts: int, seed: int = 0) -> list[Group]:
    """Two scored responses to every prompt; a prompt is as hard for every model."""
    _, _, score, length, *_ = MODELS[name]
    shared = np.random.default_rng(seed).normal(0.0, 0.45, prompts)
    own = np.random.default_rng([seed, list(MODELS).index(name)])
    groups: list[Group] = []
    for index in range(prompts):
        responses = []
        for _ in range(2):
            tokens = int(np.clip(own.gamma(4.0, length / 4.0), 3, 64))
            responses.append(
                {
                    "text": " ".join(own.choice(SENTENCE.split(), tokens)).capitalize() + ".",
                    "token_ids": own.integers(0, 200, tokens).tolist(),
                    "finish_reason": "length" if tokens == 64 else "stop",
                    "source": "student",
                    "score": float(score + shared[index] + own.normal(0.0, 0.35) - 0.004 * tokens),
                }
            )
        text = PROMPTS[index % len(PROMPTS)]
        messages = [{"role": "user", "content": text}]
        groups.append(
            {
                "prompt_id": f"p{index:03d}",
                "split": "heldout",
                "messages": messages,  # type: ignore[typeddict-item]
                "responses": responses,
            }
        )
    return groups


def model_figures(name: str, groups: list[Group], seed: int = 0) -> ModelFigures:
    label, temperature, _, _, entropy, kl_to_baseline, kl_to_teacher = MODELS[name]
    responses = [response for group in groups for response in group["responses"]]
    taus = np.random.default_rng(seed).normal(
        0.2 + 0.1 * list(MODELS).index(name), 0.5, len(groups)
    )
    return ModelFigures(
        name=name,
        label=label,
        temperature=temperature,
        per_prompt={
            group["prompt_id"]: PromptScores(
                [r["score"] for r in group["responses"]],  # type: ignore[typeddict-item]
                [len(r["token_ids"]) for r in group["responses"]],
            )
            for group in groups
        },
        unscored=0,
        kendall_tau=[None, *np.clip(taus[1:], -1.0, 1.0).tolist()],
        ordered_pairs=3 * len(taus),
        kl_to_baseline=kl_to_baseline,
        kl_to_teacher=kl_to_teacher,
        entropy=entropy,
        distinct_2=group_distinct_2(groups),
        repetition=float(np.mean([repetition(r["token_ids"], 1) for r in responses])),
        response_tokens=mean_length(responses),
        cut_share=cut_share(responses),
        parameters=134_515_008 if name == "teacher" else 99_105_984,
        tokens_per_second=88.4 if name != "teacher" else 61.0,
    )


def history(steps: int, start: float, end: float, **more: tuple[float, float]) -> list[dict]:
    """A Trainer's log history: rows of training, then one of validation at the end."""
    noise = np.random.default_rng(steps)
    rows = []
    for step in range(2, steps + 1, 2):
        part = 1.0 - np.exp(-3.0 * step / steps)
        row = {"step": step, "epoch": step / steps, "learning_rate": 1e-4 * (1 - step / steps)}
        row["loss"] = start + (end - start) * part + noise.normal(0, 0.03 * abs(start))
        row |= {k: a + (b - a) * part + noise.normal(0, 0.02) for k, (a, b) in more.items()}
        rows.append(row)
        if step % (steps // 4) == 0:
            evaluation = {"eval_loss": row["loss"] * 1.03}
            evaluation |= {f"eval_{k}": row[k] - 0.03 for k in more}
            rows.append({"step": step, **evaluation})
    return [*rows, {"step": steps, "train_runtime": 201.0, "train_loss": end}]


def run_report(
    prompts: int = 40, names: tuple[str, ...] = tuple(MODELS), **changes: Any
) -> RunReport:
    groups = {name: held_out_groups(name, prompts) for name in names}
    values: dict[str, Any] = {
        "title": "RRHF: 20 of 30 layers of bundled/smollm2-135m-instruct, 96 prompts x 4",
        "recipe": "rrhf",
        "command": "python -m rankdistill recipe=rrhf",
        "config_yaml": "seed: 0\nsample:\n  responses_per_prompt: 4\n  temperature: 1.0\n",
        "models": [model_figures(name, rows) for name, rows in groups.items()],
        "groups": groups,
        "judge": "likelihood under bundled/smollm2-135m-instruct",
        "judged_by_training_teacher": True,
        "stages": STAGES,
        "training_history": history(36, 3.1, 2.4, rank_accuracy=(0.56, 0.74)),
        "warmup_history": history(48, 2.4, 0.6),
        "versions": {"rankdistill": "0.1.0", "torch": "2.13.0", "transformers": "5.17.0"},
        "date": "2025-11-24",
    }
    return RunReport(**(values | changes))


# kind: group, its two sides, whether training prompts have it
KINDS = {
    "words": ("restrictions", "at_most_words", "at_least_words", True),
    "sentences": ("restrictions", "one_sentence", "three_sentences", True),
    "commas": ("restrictions", "no_comma", "two_commas", True),
    "title": ("marks", "title", "no_title", True),
    "bullets": ("marks", "bullets", "no_bullets", True),
    "postscript": ("marks", "postscript", "no_postscript", True),
    "digits": ("restrictions", "digits", "no_digits", False),
    "quotation": ("marks", "quotation", "no_quotation", False),
}
# arm: heading, shares of restrictions, marks and kept-out kinds, tokens
ARMS: dict[str, tuple[str, tuple[float, float, float], int]] = {
    "start": ("before warm-up", (0.2, 0.2, 0.2), 46),
    "warmed_up": ("warmed up", (0.4, 0.5, 0.4), 38),
    "warmed_up_greedy": ("warmed up, greedy", (0.45, 0.55, 0.45), 36),
    "warmed_up_prompted": ("warmed up, prompted", (0.45, 0.6, 0.45), 40),
    **{
        f"warmed_up_best_of_{n}": (f"warmed up, best of {n}", (0.4 + x, 0.5 + x, 0.4 + x), 38 * n)
        for n, x in ((1, 0.0), (2, 0.1), (4, 0.2), (8, 0.25), (16, 0.3))
    },
    "trained": ("trained", (0.6, 0.8, 0.45), 33),
    "trained_greedy": ("trained, greedy", (0.65, 0.8, 0.45), 32),
    "trained_prompted": ("trained, prompted", (0.65, 0.85, 0.5), 34),
    "sharpened": ("same entropy, T=0.81", (0.45, 0.5, 0.4), 37),
    "teacher": ("teacher", (0.6, 0.7, 0.6), 40),
    "teacher_greedy": ("teacher, greedy", (0.65, 0.7, 0.6), 40),
    "teacher_prompted": ("teacher, prompted", (0.7, 0.8, 0.7), 42),
}
GUARDS: dict[str, dict[str, Any]] = {
    name: {
        "right": right, "right_of": 96, "only_marks": 0.01, "teacher_logp": logp,
        "belongs": belongs, "belongs_of": 24,
        "plain": {
            "answers": 40, "tokens": 41.5, "repetition": 0.03, "right": right + 0.1,
            "right_of": 20, "unasked": {"title": 0.0, "bullets": 0.125, "bold": 0.05},
        },
    }
    for name, right, belongs, logp in (
        ("warmed_up", 0.25, 0.75, -1.62), ("trained", 0.22, 0.72, -1.51),
        ("teacher", 0.5, 0.95, -0.98),
    )
}  # fmt: skip
PROMPTING = {
    "chosen": "repeated",
    "validation": {"as asked": 0.44, "system": 0.45, "repeated": 0.51, "examples": 0.38},
}


def demand_rows(arm: str, bases: int, shares: tuple[float, float, float]) -> list[DemandRow]:
    """Every base prompt asks for every kind, two in one prompt, in turn for one side or the other.

    Of each kind the given share of the base prompts is followed, which ones is drawn; an answer
    follows the opposite wherever it does not follow what was asked for.
    """
    rows = []
    for place, (kind, (group, *sides, trained)) in enumerate(KINDS.items()):
        share = shares[{"restrictions": 0, "marks": 1}[group] if trained else 2]
        followed = set(random.Random(f"{arm} {kind}").sample(range(bases), round(share * bases)))
        for base in range(bases // 2 if "_best_of_" in arm else bases):
            rows.append(
                DemandRow(
                    arm, f"p{base}-{place % 4}", f"base{base}", kind, str(sides[base % 2]), group,
                    bool(trained), 0, float(base in followed), float(base not in followed),
                    ARMS[arm][2],
                )
            )  # fmt: skip
    return rows


def verified(bases: int = 20, **changes: Any) -> Verified:
    """Of all arms; `arms` changes the shares of some, None takes one out."""
    arms: Mapping[str, tuple[float, float, float] | None] = {
        name: shares for name, (_, shares, _) in ARMS.items()
    } | changes.pop("arms", {})
    known = {name: shares for name, shares in arms.items() if shares is not None}
    values: dict[str, Any] = {
        "rows": [r for name, shares in known.items() for r in demand_rows(name, bases, shares)],
        "labels": {name: ARMS[name][0] for name in known},
        "prompting": PROMPTING,
        "guards": GUARDS,
        "rule": "ifeval",
    }
    return Verified(**(values | changes))


def verified_report(bases: int = 20, prompts: int = 40, **changes: Any) -> RunReport:
    """A run whose answers a rule judged."""
    told = {"judge": "verifier", "judged_by_training_teacher": False, "recipe": "tour"}
    return run_report(prompts, **told, verified=verified(bases, **changes))


def interval(mean: float, low: float | None, high: float | None) -> dict[str, float | None]:
    """Of points, as a difference of shares."""
    points = {"mean": mean, "low": low, "high": high}
    return {key: None if value is None else value / 100 for key, value in points.items()}


STAGES = [
    done("prompts", "the starter set", "3f0a77c1d2", 0.4, False,
         {"read": 260, "duplicates": 0, "too_long": 1, "train": 96, "heldout": 40}),
    done("student", "20 of 30 layers, chosen by influence", "9b1e0c55aa", 9.1, True,
         {"parameters": 99105984}),
    done("sample", "4 responses of the student to 120 prompts", "c0ffee0123", 96.0, False,
         {"responses": 480, "tokens": 18240, "cut": 31}),
    done("score", "likelihood under bundled/smollm2-135m-instruct", "77aa77aa77", 41.0, False,
         {"scored": 480, "not_scored": 0}),
    done("rank", "all ranks", "5d5d5d5d5d", 0.3, False,
         {"groups": 117, "duplicates": 6, "ties": 4, "set_aside_single": 1, "set_aside_equal": 2}),
    done("train", "RRHF on 93 ranked groups, learning rate 1e-05", "abcdef0123", 201.0, False,
         {"steps": 36, "tokens": 52000}),
]  # fmt: skip


def verified_metrics() -> dict[str, Any]:
    """The metrics of `verified_report`, for a test to change."""
    return copy.deepcopy(_verified_metrics_once())


@cache
def _verified_metrics_once() -> dict[str, Any]:
    return metrics_of(verified_report())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    asked = sys.argv[2:] == ["verified"]
    write_report(verified_report(60) if asked else run_report(), folder)
