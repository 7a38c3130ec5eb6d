"""Mutations that change no result: what a line of a file is made, and why nothing shows it."""

from __future__ import annotations

BLOCKS = "how many logits the loss is worked out for at once"
TRIED = "lengths that a kernel is tried on, for which others would do as well"
UNUSED = (
    "Newton's whole step lowered the loss on each of 4,000 random sets of votes, so it is taken"
)
EQUIVALENT: dict[str, dict[str, str]] = {
    "compare/statistics.py": {
        "for (a, b), one in zip(pairs, tested(estimates), strict=False)": "one for each pair",
        "return float(min(2.0, result.pvalue))": "a p-value is at most 1",
        "batch=max(1, _VALUES_AT_ONCE / values.size),": "how many are drawn at once",
        "return min((len(table) for table in tables if len(table) > 1), default=2)": (
            "where no table has two seeds there is no spread to give freedom to"
        ),
    },
    "forward/flex.py": {
        "(Segment(7, (150, 1, 33)), Segment(301), Segment(1, (20,))),": TRIED,
        "(Segment(8, (150, 1, 33)), Segment(300), Segment(1, (20,))),": TRIED,
    },
    "forward/head.py": {
        "hidden.shape[0] * layer.out_features * size < self.logits_budget": (
            "logits of exactly the budget are kept or computed again, and the same"
        ),
    },
    "objectives/checks.py": {
        "lengths=torch.full((PROMPTS, RESPONSES), 5),": "a trial's lists may have any lengths",
        "logps = torch.tensor([[-6.0, -5.0, -18.0], [-4.0, -8.0, -7.0]], requires_grad=True)": (
            "and any log-probabilities"
        ),
        "reference_logps=logps.detach() + 0.5 if with_reference else None,": (
            "and any reference that is not the policy"
        ),
    },
    "objectives/divergences.py": {
        "ratio = (log_a - log_b).masked_fill(log_a == -math.inf, 1.0)": "its weight is 0",
    },
    "objectives/lists.py": {
        "logps=torch.where(mask, candidates.logps.to(dtype), 1.0),": (
            "what is padded is masked wherever it is read"
        ),
    },
    "store/files.py": {
        'whole = not begin or file.read(2) == b"\\n"': "one byte is left of the file",
    },
    "store/sharing.py": {"advance(2)": "how far a bar is drawn"},
    "store/shards.py": {"_SETTLED_NS = 100000001": "how long a file is taken for new"},
    "warmup/head.py": {
        "BLOCK_VALUES = 3**21": BLOCKS,
        "BLOCK_VALUES = 2**22": BLOCKS,
        "BLOCK_VALUES = 2*21": BLOCKS,
        "step = max(2, values // logits.shape[1])": BLOCKS,
    },
    "train/ppo/experience.py": {
        "return Support(ids, torch.zeros(tokens, size), torch.full((tokens, 1), -math.log(3)))": (
            "what is not known of a token has the weight 0"
        ),
    },
    "rank/aggregate.py": {
        "while size > _SMALLEST and loss(strengths - size * step) >= loss(strengths):": UNUSED,
        "return float((wins * np.logaddexp(0.0, -gaps)).sum() + PRIOR / 2 * (at**3).sum())": UNUSED,
    },
    "rank/combine.py": {
        "centre = float(np.mean(known)) if known else 1.0": "where no response has a score",
    },
    "rank/preferences.py": {
        "if not math.isnan(given) or not math.isnan(_number(wanted)):": (
            "a text and a number are as different as texts"
        ),
    },
    "rank/row.py": {
        'texts = [r["text"] for r, ids in zip(row.given, own, strict=False) if ids is None]': (
            "one was made from the other"
        ),
    },
    "statistics.py": {
        "batch = min(1, _VALUES_AT_ONCE // array.size)": "how many resamples are drawn at once",
    },
}  # fmt: skip
