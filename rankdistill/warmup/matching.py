"""Pull what goes on inside the student to what goes on inside the teacher.

Three kinds of states can be matched, each at the N response tokens: the last hidden state
(DistilBERT, Sanh et al. 2019, arXiv:1910.01108), the hidden state after every layer (DistillFlow's
layers), and what the attention of every layer returns (fused attention gives no probabilities to
compare, unlike in TinyBERT). Where the sizes differ a learned projection takes the student's to
the teacher's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from rankdistill.errors import UserError
from rankdistill.forward import GroupBatch
from rankdistill.models.layers import decoder_layers
from rankdistill.warmup.head import Recorder, TeacherRows

LAST = "last"
MODULE = "distillation_matching"
"""Name under which a student carries its `StateMatching` while it trains."""
ATTENTION_NAMES = ("self_attn", "attn", "attention")


class StateMatching(nn.Module):
    """``weight * (distance of states + relational * distance of their relations)``, a `Matching`.

    A module of the student, so that its projections are trained, wrapped and checkpointed with it.

    Args:
        recorder: Of the student.
        names: The states that are matched: `last`, and those of the recorder.
        sizes: Of the student's and of the teacher's states.
        weight: Of the whole.
        relational: Weight of the relations between the tokens of a response; 0 is none.
    """

    def __init__(
        self,
        recorder: Recorder,
        names: Sequence[str],
        sizes: tuple[int, int],
        weight: float,
        relational: float,
    ) -> None:
        super().__init__()
        self._recorder, self._weight, self._relational = recorder, weight, relational
        self._names = tuple(names)
        projected = self._names if sizes[0] != sizes[1] else ()
        self.projections = nn.ModuleDict({name: _projection(*sizes) for name in projected})

    @property
    def recorder(self) -> Recorder:
        """Of the student."""
        return self._recorder

    def forward(self, hidden: Tensor, batch: GroupBatch, target: TeacherRows) -> Tensor:
        """[] summed over the N tokens: means over the names of ``1 - cosine`` and of relations."""
        ours = {LAST: hidden, **self._recorder.take(batch)}
        theirs = {LAST: target.hidden, **target.states}
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for name in self._names:
            wanted = theirs[name].detach().to(total.dtype)
            state = ours[name].to(total.dtype)
            if self._relational:
                total = total + self._relational * relations(state, wanted, batch)
            if name in self.projections:
                projection: Any = self.projections[name]  # FSDP may have lower weights in it
                state = projection(state.to(projection.weight.dtype)).to(total.dtype)
            total = total + (1 - cosine_similarity(state, wanted, dim=-1)).sum()
        return self._weight * total / len(self._names)


def relations(ours: Tensor, theirs: Tensor, batch: GroupBatch) -> Tensor:
    """[] how differently tokens of one response resemble each other in the two models.

    For each token the mean over the response's tokens of the squared difference between the cosines
    of the two states, summed over tokens. Tokens of one response, not of different ones: the split
    into micro-batches must not change the loss. Needs no projection (relational knowledge
    distillation, Park et al. 2019, arXiv:1904.05068, with cosines).

    ours, theirs: [N, size], any two sizes.
    """
    lengths = batch.lengths.flatten()
    total = ours.new_zeros(())
    parts = lengths[lengths > 0].tolist()
    for a, b in zip(ours.split(parts), theirs.split(parts), strict=True):
        a, b = normalize(a, dim=-1), normalize(b, dim=-1)
        total = total + (a @ a.t() - b @ b.t()).square().mean(dim=1).sum()
    return total


def attach(
    student: Any, teacher: Any, *, layers: str, attention: bool, weight: float, relational: float
) -> Recorder:
    """Gives the student its `StateMatching`, as module `MODULE`; returns the teacher's recorder.

    Args:
        student: Not yet wrapped.
        teacher: The model, or its output layer alone where only last states are matched.
        layers: `last`, or `all` for the state after every layer of the student.
        attention: Also what the attention of every layer returns.
        weight: See `StateMatching`, like `relational`.

    Raises:
        UserError: The teacher has fewer layers than the student, or a layer has no attention.
    """
    count = len(decoder_layers(student))
    ours, theirs = (_modules(model, layers, attention, count) for model in (student, teacher))
    sizes = [model.config.get_text_config().hidden_size for model in (student, teacher)]
    names = [*([LAST] if layers == LAST else []), *ours]
    matching = StateMatching(Recorder(ours), names, (sizes[0], sizes[1]), weight, relational)
    student.add_module(MODULE, matching.to(next(student.parameters()).dtype))
    return Recorder(theirs)


def _modules(model: Any, layers: str, attention: bool, count: int) -> dict[str, nn.Module]:
    """name -> the modules whose outputs are matched, `count` of each kind.

    With fewer than the model has, the i-th is that at which the same share of the model is done.
    """
    if layers == LAST and not attention:
        return {}
    own = decoder_layers(model)
    if len(own) < count:
        raise UserError(
            f"warmup.layers and warmup.attention match {count} layers of the student with the "
            f"teacher's, which has {len(own)}: set warmup.layers=last and warmup.attention=false."
        )
    chosen = [own[-(-(i + 1) * len(own) // count) - 1] for i in range(count)]
    modules: dict[str, nn.Module] = {}
    if layers != LAST:
        modules = {f"layer_{i}": layer for i, layer in enumerate(chosen)}
    if attention:
        modules |= {f"attention_{i}": _attention(layer) for i, layer in enumerate(chosen)}
    return modules


def _attention(layer: nn.Module) -> nn.Module:
    for name in ATTENTION_NAMES:
        if isinstance(module := getattr(layer, name, None), nn.Module):
            return module
    raise UserError(
        f"a {type(layer).__name__} has no attention under the names {', '.join(ATTENTION_NAMES)}: "
        "set warmup.attention=false."
    )


def _projection(student: int, teacher: int) -> nn.Linear:
    """The same start in every process and run: as far from losing anything as a matrix can be."""
    linear = nn.Linear(student, teacher, bias=False)
    generator = torch.Generator().manual_seed(0)
    nn.init.orthogonal_(linear.weight, generator=generator)
    return linear
