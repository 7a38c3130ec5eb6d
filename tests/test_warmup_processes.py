"""Two processes warm up to the same student as one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import forked
import torch
import warmup_runs
from tiny_models import build_model, build_tokenizer
from transformers import AutoModelForCausalLM

from rankdistill.warmup.logits import LogitsWarmup


def warm_up(root: Path, out: Path) -> None:
    options = {"learning_rate": 1e-3, "epochs": 1.0, "responses_per_step": 4}
    warmup = LogitsWarmup(**options, max_batch_tokens=40)
    rows = json.loads((root / "rows.json").read_text())
    warmup_runs.warm_up(warmup, root / "student", root / "teacher", rows, out / "model")


def test_two_processes_end_where_one_does(tmp_path):
    """Ragged responses, and a last step that the processes share unequally."""
    for name, seed in (("student", 1), ("teacher", 2)):
        build_model(layers=1, seed=seed).save_pretrained(tmp_path / name)
        build_tokenizer().save_pretrained(tmp_path / name)
    generator = torch.Generator().manual_seed(0)
    rows = [
        {
            "prompt_id": f"p{i}",
            "split": "train",
            "messages": [{"role": "user", "content": "x" * (i + 1)}],
            "responses": [
                {"token_ids": torch.randint(3, 259, (1 + i % 5,), generator=generator).tolist()}
            ],
        }
        for i in range(11)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    warm_up(tmp_path, tmp_path / "one")
    arguments = [str(tmp_path), str(tmp_path / "two")]
    both = forked.together("test_warmup_processes", *arguments, CUDA_VISIBLE_DEVICES="")
    assert [done.returncode for done in both] == [0, 0], [done.stderr[-3000:] for done in both]
    one, two = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name / "model").state_dict()
        for name in ("one", "two")
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=2e-5, msg=name)


if __name__ == "__main__":
    warm_up(Path(sys.argv[1]), Path(sys.argv[2]))
