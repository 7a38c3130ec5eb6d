"""The forward that shares the prompt: C responses to one prompt are computed with the prompt once.

bind(model, "shared")
batch = collate([TokenGroup(prompt, responses), ...], "shared")
response_logps(model, batch).logps          # [B, C]
"""

from rankdistill.forward.batch import (
    LAYOUTS,
    GroupBatch,
    TokenGroup,
    collate,
    micro_batches,
    sum_by_candidate,
    token_count,
)
from rankdistill.forward.binding import bind
from rankdistill.forward.head import (
    Head,
    LMHead,
    ResponseLogps,
    TokenLogps,
    bound_layout,
    response_logps,
)

__all__ = [
    "LAYOUTS",
    "GroupBatch",
    "Head",
    "LMHead",
    "ResponseLogps",
    "TokenGroup",
    "TokenLogps",
    "bind",
    "bound_layout",
    "collate",
    "micro_batches",
    "response_logps",
    "sum_by_candidate",
    "token_count",
]
