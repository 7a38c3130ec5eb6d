"""Log-probabilities of responses from a vLLM engine, as it reports them for its prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice

from rankdistill.forward import TokenGroup
from rankdistill.models import Model
from rankdistill.sample.vllm import VLLMSampler


def served_logps(
    engine: VLLMSampler, model: Model, groups: Sequence[TokenGroup]
) -> Iterator[list[float]]:
    """One group after the other, the log-probability of each of its responses, nats.

    Sums over the response's tokens at temperature 1, as `rankdistill.forward.response_logps` gives
    them. The engine has one such pass at a time.

    Args:
        model: What the engine serves.
        groups: In the tokens of that model.
    """
    pairs = [(group.prompt, response) for group in groups for response in group.responses]
    with closing(engine.response_logps(model, pairs)) as found:
        for group in groups:
            yield [sum(logps) for logps in islice(found, len(group.responses))]
