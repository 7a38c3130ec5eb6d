"""The words of reports, comparisons, the terminal and `metrics.json`, once."""

from __future__ import annotations

from typing import NamedTuple


class Word(NamedTuple):
    """A word, the key that `metrics.json` has for it, and what it means."""

    word: str
    key: str
    meaning: str


WORDS = [
    Word(
        "response, answer", "responses",
        "What a model writes to a prompt; an answer is one that a verifier or a reader judges.",
    ),
    Word("before warm-up", "start", "The student before any training."),
    Word(
        "warmed up", "warmed_up",
        "The student after its warm-up and before the training that is reported: what gains are "
        "over (`baseline`). In comparisons: before training.",
    ),
    Word("trained", "trained", "The student after training."),
    Word(
        "same entropy", "sharpened",
        "A control that trains nothing: the student before training, sampled at the lower "
        "temperature T that makes it as sure as the trained one. A gain that it has too is "
        "sharpening: being surer.",
    ),
    Word("greedy", "..._greedy", "The likeliest token at every step, instead of sampling."),
    Word("teacher", "teacher", "The model that the student learns from."),
    Word("judge score", "score", "What the evaluation's judge gives a response; higher is better."),
    Word(
        "gain", "score_difference",
        "Trained minus before training, on the same prompts: `minus warmed up` in tables, `lead` "
        "in `results.csv`. Of demands in points: from 46 % to 55 % are +9 points.",
    ),
    Word("wins", "win_rate", "How often a response is scored above the other's; ties half."),
    Word(
        "interval", "low, high",
        "95 % bootstrap interval (BCa) over prompts: where other prompts might put the figure.",
    ),
    Word(
        "beyond noise", "",
        "An interval that excludes no difference; of several comparisons, a p-value below 0.05 "
        "after Holm's correction for their number.",
    ),
    Word(
        "nats", "",
        "Natural logarithms: +0.69 nats per token is twice the probability of each token.",
    ),
    Word("entropy", "entropy", "How unsure the next token is, nats per token; lower is surer."),
    Word("KL", "kl_to_baseline", "How far a model's next-token distribution is from another's."),
    Word("Kendall's tau", "kendall_tau", "Agreement of two orders: 1 the same, 0 unrelated."),
    Word("distinct-2", "distinct_2", "Share of distinct word pairs; lower is more alike."),
    Word("repetition", "repetition", "Share of trigrams that the same response had before."),
    Word("cut by length", "cut_share", "Responses that ended at the limit, not by themselves."),
    Word(
        "demand, kind", "verified",
        "What a prompt asks of the form of an answer, and its sort (at most 8 words; a title). "
        "Marks are added to an answer; restrictions bind its whole text; kept-out kinds have no "
        "training prompt.",
    ),
    Word("placebo", "", "The same training on ranks that were dealt at random."),
]  # fmt: skip
