"""A reward model's logits through vLLM's pooling, in a process of its own, as `test_reward_model`
asks for them: `python vllm_pooling.py FOLDER < token_ids.json > logits.json`."""

from __future__ import annotations

import json
import os
import sys

# As `rankdistill.sample.vllm_process` starts its engine.
os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def main(folder: str) -> None:
    from vllm import LLM, PoolingParams, TokensPrompt

    llm = LLM(folder, runner="pooling", dtype="float32", enforce_eager=True, max_model_len=256)
    prompts = [TokensPrompt(prompt_token_ids=ids) for ids in json.load(sys.stdin)]
    # A reward is the logit itself: without the sigmoid that one label gets by default.
    asked = PoolingParams(use_activation=False)
    outputs = llm.classify(prompts, pooling_params=asked, use_tqdm=False)
    print(json.dumps([output.outputs.probs[0] for output in outputs]))


if __name__ == "__main__":
    main(sys.argv[1])
