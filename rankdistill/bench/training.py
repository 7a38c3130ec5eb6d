"""One training step, forward and backward, in the ways that are compared."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rankdistill.bench.results import Turn, Unequal, take_turns
from rankdistill.forward import ResponseLogps, TokenGroup, collate, response_logps
from rankdistill.objectives import Candidates, ObjectiveOutput

Step = Callable[[], float]
"""Adds the gradients to the model's and returns the loss."""

Objective = Callable[[Candidates], ObjectiveOutput]

LOSS_TOLERANCE = 1e-5
"""Of losses, relative where they are above 1."""
GRADIENT_TOLERANCE = 1e-4
"""Of the whole gradient, relative: the norm of the difference by the norm."""


def grouped_step(
    model: Any,
    group: TokenGroup,
    objective: Objective,
    layout: str = "shared",
    reference: Sequence[float] | None = None,
) -> Step:
    """Our way: the forward of a bound model in one layout, and an objective."""

    def step() -> float:
        output = response_logps(model, collate([group], layout).to(model.device))
        return _backward(objective(_ranked(output, reference)).loss.mean())

    return step


def full_logits_step(model: Any, group: TokenGroup, objective: Objective) -> Step:
    """The usual way: a row per response, logits and their log-softmax at every position."""

    def step() -> float:
        batch = collate([group], "padded").to(model.device)
        token_logps, mask = _full_logits(model, batch.input_ids, batch.attention_mask, group)
        logps = (token_logps * mask).sum(-1)[None]
        output = ResponseLogps(logps, token_logps[mask], batch.lengths)
        return _backward(objective(_ranked(output, None)).loss.mean())

    return step


def rrhf_step(model: Any, group: TokenGroup) -> Step:
    """RRHF as its authors' trainer computes it, written anew: full logits of C padded responses.

    Without what is wrong there (see `rankdistill.objectives.RRHF`): lengths are those of the
    responses. The responses are in the order of their rank.
    """

    def step() -> float:
        batch = collate([group], "padded").to(model.device)
        token_logps, mask = _full_logits(model, batch.input_ids, batch.attention_mask, group)
        values = (token_logps * mask).sum(-1) / mask.sum(-1)
        loss = -values[0]
        for better in range(len(values)):
            for worse in range(better + 1, len(values)):
                loss = loss + (values[worse] - values[better]).clamp(min=0)
        return _backward(loss)

    return step


def compare(
    model: Any,
    steps: Mapping[str, Step],
    rounds: int,
    what: str,
    alike: Sequence[Sequence[str]] | None = None,
) -> tuple[dict[str, list[Turn]], dict[str, float]]:
    """The turns of all steps, and how far losses and gradients are from the first one's.

    alike: names of steps that compute the same; None: all do.

    Raises:
        Unequal: a step's loss or gradient is not that of the first one of its kind.
    """
    equality: dict[str, _Equality] = {}
    for names in alike or [list(steps)]:
        equality |= dict.fromkeys(names, _Equality(model, what))

    def clear() -> None:
        for parameter in model.parameters():
            if parameter.grad is None:  # exists before the turn, so it is no part of its memory
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad.zero_()

    turns = take_turns(
        steps, rounds, before=clear, after=lambda name, loss: equality[name].check(name, loss)
    )
    kinds = ("loss", "gradient")
    return turns, {k: max(found.largest[k] for found in equality.values()) for k in kinds}


class _Equality:
    """Holds the loss and gradient of every turn against those of the first."""

    def __init__(self, model: Any, what: str) -> None:
        self._parameters, self._what = list(model.parameters()), what
        self._first: tuple[str, float, list[Tensor]] | None = None
        self.largest = {"loss": 0.0, "gradient": 0.0}

    def check(self, name: str, loss: float) -> None:
        if self._first is None:
            self._first = (name, loss, [parameter.grad.clone() for parameter in self._parameters])
            return
        first, expected, gradients = self._first
        size = sum(_square(gradient) for gradient in gradients)
        apart = sum(
            _square(parameter.grad - gradient)
            for parameter, gradient in zip(self._parameters, gradients, strict=True)
        )
        found = {
            "loss": abs(loss - expected) / max(1.0, abs(expected)),
            "gradient": (apart / size) ** 0.5 if size else apart**0.5,
        }
        for kind, tolerance in (("loss", LOSS_TOLERANCE), ("gradient", GRADIENT_TOLERANCE)):
            self.largest[kind] = max(self.largest[kind], found[kind])
            if not found[kind] <= tolerance:
                raise Unequal(
                    f"{self._what}: the {kind} of '{name}' is {found[kind]:.1e} from that of "
                    f"'{first}', more than {tolerance:.0e}, so their times do not compare."
                )


def _square(gradient: Tensor) -> float:
    return gradient.norm(dtype=torch.float64).item() ** 2


def _full_logits(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None, group: TokenGroup
) -> tuple[Tensor, Tensor]:
    """[C, T - 1] log-probabilities of all tokens but the first, and which are the responses'."""
    logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
    logps = logits.log_softmax(-1)[:, :-1]
    token_logps = logps.gather(2, input_ids[:, 1:, None]).squeeze(2)
    assert attention_mask is not None
    position = torch.arange(1, input_ids.shape[1], device=input_ids.device)
    return token_logps, attention_mask[:, 1:] & (position >= len(group.prompt))


def _ranked(output: ResponseLogps, reference: Sequence[float] | None) -> Candidates:
    """The candidates of one prompt, best first."""
    count, device = output.logps.shape[1], output.logps.device
    known = None if reference is None else torch.tensor([list(reference)], device=device)
    return Candidates(
        logps=output.logps,
        lengths=output.lengths,
        scores=torch.arange(count, 0, -1, dtype=torch.float32, device=device)[None],
        mask=output.lengths > 0,
        reference_logps=known,
    )


def _backward(loss: Tensor) -> float:
    loss.backward()
    return loss.item()


Pair = tuple[int, int]
"""Numbers of the chosen and of the rejected response."""


class TRLSteps:
    """Steps of a DPOTrainer that trains `model` in place.

    On its device, in float32 or under autocast (`bf16`), without gradient checkpointing, with
    reference log-probabilities that are known: what costs a user of TRL the least. Rows are handed
    to the trainer's own collator in tokens, so that its tokenisation, which adds EOS, cannot make
    them others than ours.
    """

    def __init__(self, model: Any, tokenizer: Any, beta: float, *, bf16: bool = False) -> None:
        from datasets import Dataset
        from trl.trainer.dpo_config import DPOConfig
        from trl.trainer.dpo_trainer import DPOTrainer

        os.environ.setdefault("TQDM_DISABLE", "1")  # or computing the reference shows a bar
        self._folder = tempfile.TemporaryDirectory(prefix="rankdistill-bench-")
        config = DPOConfig(
            output_dir=self._folder.name,
            beta=beta,
            bf16=bf16,
            use_cpu=model.device.type == "cpu",
            gradient_checkpointing=False,
            precompute_ref_log_probs=True,
            max_length=None,
            per_device_train_batch_size=1,
            report_to=[],
            disable_tqdm=True,
        )
        # Only to make a trainer; the steps bring their own rows.
        rows = Dataset.from_list([{"prompt": "1 2", "chosen": " 3", "rejected": " 4"}])
        self._trainer: Any = DPOTrainer(
            model, args=config, train_dataset=rows, processing_class=tokenizer
        )
        model.train()

    def step(
        self, group: TokenGroup, reference: Sequence[float], batches: Sequence[Sequence[Pair]]
    ) -> Step:
        """The mean loss of all pairs, from accumulated batches of equally many."""
        trainer = self._trainer

        def row(chosen: int, rejected: int) -> dict[str, Any]:
            return {
                "prompt_ids": list(group.prompt),
                "chosen_ids": list(group.responses[chosen]),
                "rejected_ids": list(group.responses[rejected]),
                "ref_chosen_logps": reference[chosen],
                "ref_rejected_logps": reference[rejected],
            }

        def step() -> float:
            total = 0.0
            for pairs in batches:
                inputs = trainer.data_collator([row(*pair) for pair in pairs])
                inputs = trainer._prepare_inputs(inputs)
                loss = trainer.compute_loss(trainer.model, inputs) / len(batches)
                loss.backward()
                total += loss.item()
            return total

        return step


def all_pairs(count: int) -> list[Pair]:
    """Every pair of responses that are in the order of their rank."""
    return list(itertools.combinations(range(count), 2))
