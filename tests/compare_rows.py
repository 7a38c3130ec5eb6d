"""Made-up runs of several objectives and seeds, as folders, to compare and to look at:

python tests/compare_rows.py FOLDER [--verified]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from report_rows import done, held_out_groups, history, model_figures, run_report

from rankdistill.evaluate.model_figures import ModelFigures, PromptScores
from rankdistill.evaluate.verified import DemandRow
from rankdistill.report import metrics_of
from rankdistill.report.answers import answer_rows, answers_file, demands_file
from rankdistill.report.metrics import metrics_bytes
from rankdistill.report.run_report import StageRecord
from rankdistill.rows import Group
from rankdistill.store.written import put_files

OBJECTIVES = {
    # lead, length, KL, entropy
    "RRHF": (0.32, 33.0, 0.11, 1.38),
    "PRO": (0.30, 35.0, 0.16, 1.41),
    "DPO": (0.12, 41.0, 0.31, 1.66),
    "SimPO": (-0.15, 29.0, 0.42, 1.30),
}
"""What the trained students of each are like."""
CONFIG = """seed: {seed}
rounds: 1
objective:
  _target_: rankdistill.objectives.{name}
  {key}: {value}
train:
  learning_rate: {rate}
score:
  _target_: rankdistill.score.likelihood.Likelihood
eval:
  quick:
    version: 1
    responses_per_prompt: 2
"""
_OWN = {
    "RRHF": ("sft_weight", "1.0", "1.0e-4"),
    "PRO": ("sft_weight", "0.05", "5.0e-5"),
    "DPO": ("beta", "0.1", "2.5e-5"),
    "SimPO": ("gamma", "0.5", "5.0e-5"),
}


def write_run(
    folder: Path,
    name: str,
    seed: int = 0,
    *,
    prompts: int = 40,
    lead: float | None = None,
    seed_spread: float = 0.05,
    config: str = CONFIG,
    **changes: Any,
) -> Path:
    """The folder of a finished run of an objective whose true lead is `lead`."""
    own_lead, length, kl, entropy = OBJECTIVES[name]
    lead = own_lead if lead is None else lead
    draw = np.random.default_rng([seed, list(OBJECTIVES).index(name)])
    groups = {n: held_out_groups(n, prompts, seed) for n in ("warmed_up", "sharpened", "teacher")}
    groups["trained"] = _shifted(
        held_out_groups("warmed_up", prompts, seed), lead + draw.normal(0, seed_spread), draw
    )
    models = []
    for model in ("warmed_up", "trained", "sharpened", "teacher"):
        figures = model_figures(model, groups[model])
        figures = replace(figures, per_prompt=_scores(groups[model]))
        if model == "trained":
            figures = replace(
                figures, kl_to_baseline=kl + draw.normal(0, 0.02), entropy=entropy,
                response_tokens=length + draw.normal(0, 1),
            )  # fmt: skip
        models.append(figures)
    key, value, rate = _OWN[name]
    told = config.format(seed=seed, name=name, key=key, value=value, rate=rate)
    values: dict[str, Any] = {
        "title": f"{name}: 20 of 30 layers of bundled/smollm2-135m-instruct",
        "recipe": "none",
        "config_yaml": told,
        "models": models,
        "groups": groups,
        "start": None,
        "stages": _stages(name, seed),
        "training_history": history(
            36, 3.1, 2.4, rank_accuracy=(0.56, 0.6 + lead / 2), chosen_mean_logp=(-2.6, -2.4),
            rejected_mean_logp=(-3.8, -4.0 - lead),
        ),
        "seed": seed,
    }  # fmt: skip
    report = run_report(**(values | changes))
    folder.mkdir(parents=True, exist_ok=True)
    put_files(
        folder,
        {
            **answers_file(answer_rows(report.groups)),
            "metrics.json": metrics_bytes(metrics_of(report)),
        },
    )
    (folder / "config.yaml").write_text(report.config_yaml, encoding="utf-8")
    return folder


def _shifted(groups: list[Group], lead: float, draw: np.random.Generator) -> list[Group]:
    for group in groups:
        for response in group["responses"]:
            response["score"] = response.get("score", 0.0) + lead + float(draw.normal(0.0, 0.15))
            words = response["text"].split()
            response["text"] = " ".join(draw.permutation(words))
    return groups


def _scores(groups: list[Group]) -> dict[str, PromptScores]:
    return {
        group["prompt_id"]: PromptScores(
            [r.get("score", 0.0) for r in group["responses"]],
            [len(r["token_ids"]) for r in group["responses"]],
        )
        for group in groups
    }


def _stages(name: str, seed: int) -> list[StageRecord]:
    first = name == "RRHF"
    return [
        done("warmup", "logits", f"warmup-{seed}", 160.0, not first, {}),
        done("sample", "student", f"sample-{seed}", 98.0, not first,
             {"tokens": 14126}),
        done("train", name, f"train-{name}-{seed}", 140.0 + len(name), False,
             {"steps": 36, "peak_mib": 4100 + 300 * len(name)}),
        done("evaluate", "trained", f"evaluate-{name}-{seed}", 28.0, False, {"prompts": 40}),
    ]  # fmt: skip


def write_sweep(folder: Path, seeds: int = 2) -> Path:
    """Four objectives; one more point failed."""
    for name in OBJECTIVES:
        for seed in range(seeds):
            write_run(folder / f"objective={name.lower()},seed={seed}", name, seed)
    failed = folder / "objective=ppo,seed=0"
    failed.mkdir(parents=True, exist_ok=True)
    (failed / "failure.txt").write_text(
        "The loss is not a number at step 12 (prompt 1da8): lower train.learning_rate.\n"
    )
    return folder


KINDS = {
    # group, trained, chance that the student before follows it
    "words": ("restrictions", True, 0.5),
    "commas": ("restrictions", True, 0.4),
    "title": ("marks", True, 0.3),
    "keywords": ("restrictions", False, 0.5),
}
ARMS = ("trained", "trained_greedy", "trained_prompted", "warmed_up", "warmed_up_greedy",
        "warmed_up_prompted", "sharpened", "teacher")  # fmt: skip


def demand(arm: str, cluster: str, kind: str, followed: float, **changes: Any) -> DemandRow:
    """One row; without changes of the only prompt of a base prompt, and its only answer."""
    group, trained, _ = KINDS[kind]
    values: dict[str, Any] = {
        "arm": arm, "prompt_id": f"prompt of {cluster}", "cluster": cluster, "kind": kind,
        "side": "most", "group": group, "trained": trained, "answer": 0, "followed": followed,
        "opposite": 0.0, "tokens": 10,
    }  # fmt: skip
    return DemandRow(**(values | changes))


def made_up_demands(gain: float, seed: int, clusters: int = 60) -> list[DemandRow]:
    """Of a student that follows a demand by `gain` more often than before training."""
    rows = []
    for cluster in range(clusters):
        # The same in all arms of all runs: some base prompts are harder than others.
        hard = np.random.default_rng(cluster).normal(0.0, 0.15)
        for place, arm in enumerate(ARMS):
            draw = np.random.default_rng([cluster, place, seed, int(1000 * (1 + gain))])
            more = gain if arm.startswith("trained") else 0.05 * (arm not in ARMS[3:5])
            for kind, (*_, chance) in KINDS.items():
                for answer in range(1 if arm.endswith("greedy") else 2):
                    own, opposite = draw.random(2) < (chance + more + hard, 0.3)
                    rows.append(
                        demand(
                            arm, f"base {cluster}", kind, float(own), answer=answer,
                            opposite=float(opposite), tokens=int(draw.integers(20, 60)),
                        )
                    )  # fmt: skip
    return rows


def write_verified_sweep(folder: Path, seeds: int = 3) -> Path:
    """Two objectives and a placebo of one of them, each with its verified rows."""
    placebo = CONFIG + "rank:\n  placebo: true\n"
    for name, config, gain in (("RRHF", CONFIG, 0.3), ("DPO", CONFIG, 0.1), ("DPO", placebo, 0.0)):
        for seed in range(seeds):
            of = f"{name.lower()}{'_placebo' if config == placebo else ''},seed={seed}"
            run = write_run(
                folder / f"objective={of}", name, seed, config=config,
                judge="share of verified demands", judged_by_training_teacher=False,
            )  # fmt: skip
            put_files(run, demands_file(made_up_demands(gain, seed)))
    return folder


__all__ = ["CONFIG", "OBJECTIVES", "ModelFigures", "write_run", "write_sweep"]

if __name__ == "__main__":
    write = write_verified_sweep if "--verified" in sys.argv else write_sweep
    write(Path(sys.argv[1]))
