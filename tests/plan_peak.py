"""A process that trains a model of tiny or bundled size on random groups and prints its peak."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch
from tiny_models import build_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from rankdistill import RankingConfig, RankingTrainer
from rankdistill.console import quiet
from rankdistill.models import load_trainable


def main(model: str, prompts: int, prompt: int, response: int, out: str) -> None:
    """Two steps, so that AdamW's averages are there; prints mebibytes before and at the peak."""
    quiet()
    torch.manual_seed(0)
    if model == "tiny":
        config = AutoConfig.for_model("llama", **SHAPE)
        policy = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    else:
        policy = load_trainable(model, precision="float32", lora=None, seed=0)
    rows = [
        {
            "prompt_id": str(i),
            "messages": [{"role": "user", "content": "a" * prompt}],
            "responses": [
                {"text": "", "token_ids": torch.randint(3, 250, (response,)).tolist(), "score": k}
                for k in range(4)
            ],
        }
        for i in range(prompts)
    ]
    args = RankingConfig(
        out, prompts_per_step=prompts, max_batch_tokens=10**6, max_steps=2, save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    trainer = RankingTrainer(policy, args, rows, processing_class=build_tokenizer())
    before = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
    trainer.train()
    # Not ru_maxrss: that begins as the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(before, int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10)  # type: ignore[index]


SHAPE = {
    "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6,
    "num_attention_heads": 8, "num_key_value_heads": 4, "tie_word_embeddings": True,
    "max_position_embeddings": 2048, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip

if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5])
