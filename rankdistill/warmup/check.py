"""What is refused of a warm-up before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rankdistill.errors import UserError
from rankdistill.models import tokenizer_difference
from rankdistill.run import Run
from rankdistill.score.verifier import Verifier
from rankdistill.warmup.distillation import other_tokenizer
from rankdistill.warmup.hidden import HiddenWarmup
from rankdistill.warmup.sft import SFTWarmup


def check_warmup(run: Run) -> None:
    """Refuse what cannot work.

    Raises:
        UserError: Logits of two tokenizers, projections beside adapters, assistants that are no
            ladder, an engine that is not there, rationales without a verifier.
    """
    warmup = run.settings.warmup
    if isinstance(warmup, HiddenWarmup) and run.lora is not None:
        _check_projections(run)
    if warmup.assistants:
        _check_assistants(run, warmup.assistants)
    if isinstance(warmup, SFTWarmup) and warmup.rationale:
        _check_verifier(run)
    if (stored := warmup.stored) and stored.get("engine") == "vllm" and run.sampler_name != "vllm":
        raise UserError(
            "warmup.top_k_from is vllm, which sample.sampler does not use here: install it and set "
            "sample.sampler=vllm, or warmup.top_k_from=transformers."
        )
    if not warmup.needs_same_tokenizer or run.start.path == run.teacher.path:
        return
    ours, theirs = run.start.tokenizer(), run.teacher.tokenizer()
    difference = tokenizer_difference(ours, theirs)
    if difference is not None:
        raise UserError(other_tokenizer("the teacher", difference))


def _check_verifier(run: Run) -> None:
    name = run.settings.scorer.name
    if name != Verifier.name:
        raise UserError(
            f"warmup.rationale learns a chain of thought where a verifier agrees, and score is "
            f"{name}: set score=verifier, or warmup.rationale=false."
        )


def _check_assistants(run: Run, assistants: Sequence[int]) -> None:
    keep = run.settings.student.keep_layers
    if keep is None:
        raise UserError(
            "warmup.assistants are students between the whole model and one with fewer layers: set "
            "student.keep_layers, or warmup.assistants=[]."
        )
    whole = run.start.config().get_text_config().num_hidden_layers
    ladder = [whole, *assistants, keep]
    if any(a <= b for a, b in pairwise(ladder)):
        raise UserError(
            f"warmup.assistants is {list(assistants)}, but the ladder must fall from the model's "
            f"{whole} layers to student.keep_layers={keep}: give layers in between."
        )


def _check_projections(run: Run) -> None:
    sizes = [model.config().get_text_config().hidden_size for model in (run.start, run.teacher)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"warmup=hidden would train projections between the student's {sizes[0]} and the "
            f"teacher's {sizes[1]} dimensions, which a checkpoint of adapters cannot hold: set "
            "student.lora.r=null, or take warmup=logits."
        )
