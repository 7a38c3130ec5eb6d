"""The back end that shares contexts answers as lm-eval's own does."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import build_model

# Not imported here: every process of the tests would do it, for seconds.
pytestmark = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed")


def both(folder: Path, **options: Any) -> tuple[Any, Any]:
    """lm-eval's own back end and ours, on models of equal weights."""
    from lm_eval.models.huggingface import HFLM

    from rankdistill.suites.shared_contexts import SharedContexts

    named: Any = {"tokenizer": str(folder), "device": "cpu", **options}
    return (
        HFLM(pretrained=build_model("llama"), batch_size=1, **named),
        SharedContexts(build_model("llama"), batch_size=3, **named),
    )


def test_log_likelihoods_and_greedy_are_those_of_lm_eval(tiny_dir):
    own, shared = both(tiny_dir, max_length=16)
    first, second = [5, 6, 7, 8], [9]
    start = torch.tensor([first])
    greedy = shared.model.generate(start, max_new_tokens=3, do_sample=False)[0, 4:].tolist()
    pairs = [
        (first, [10, 11]), (second, [12]), (first, greedy), (first, [13, 14, 15, 16, 17]),
        (first, greedy[:1]), (second, [18, 19, 20]), (first, [*greedy, 5, 6]),
        # Too long for the model: the beginning of the context is left out.
        ([*range(5, 25)], [7, 8]), ([*range(5, 25)], [9, 10, 11]), ([*range(5, 9)], [*range(16)]),
    ]  # fmt: skip
    asked = [(("", ""), context, continuation) for context, continuation in pairs]
    wanted = own._loglikelihood_tokens(asked, disable_tqdm=True)
    found = shared._loglikelihood_tokens(asked, disable_tqdm=True)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=2e-5)
    assert [is_greedy for _, is_greedy in found] == [is_greedy for _, is_greedy in wanted]
    assert [i for i, (_, is_greedy) in enumerate(found) if is_greedy][:2] == [2, 4]


def test_a_context_is_computed_once(tiny_dir):
    _, shared = both(tiny_dir)
    computed: list[int] = []
    shared.model.model.embed_tokens.register_forward_hook(
        lambda _module, inputs, _output: computed.append(inputs[0].numel())
    )
    context = [*range(5, 25)]
    asked = [(("", ""), context, [30 + i, 31 + i]) for i in range(4)]
    shared._loglikelihood_tokens([*asked, (("", ""), context[:5], [9])])
    # Four endings are more than the three of a batch, and are not taken apart: 20 + 4 * 2 tokens
    # at most, and 5 + 1.
    assert len(computed) == 2 and computed[0] <= 28 and computed[1] <= 6
