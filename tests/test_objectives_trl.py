"""The pairwise objectives against TRL's DPOTrainer, losses and gradients, in float64."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from trl import DPOTrainer

from rankdistill.objectives import DPO, IPO, Candidates, HingeDPO, Objective, RobustDPO


def trl_loss(loss_type: str, beta: float, label_smoothing: float, token_logps, reference, mask):
    """TRL's loss, the mean over the pairs, from log-probabilities alone: its code, called unbound.

    token_logps [2N, T], chosen first, 0 where `mask` [2N, T] is False; reference [2N].
    """
    rows, tokens = mask.shape
    prompt = torch.zeros(rows, 1, dtype=torch.bool)
    filler = torch.zeros(rows, tokens, dtype=torch.float64)
    outputs = SimpleNamespace(
        log_probs=token_logps, entropy=filler, mean_logits=filler, is_top1=filler.bool()
    )
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x
    )
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=label_smoothing,
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.zeros(rows, tokens + 1, dtype=torch.long),
        "attention_mask": torch.cat([~prompt, mask], dim=1),
        "completion_mask": torch.cat([prompt, mask], dim=1).long(),
        "ref_chosen_logps": reference[: rows // 2],
        "ref_rejected_logps": reference[rows // 2 :],
    }
    return DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)


@pytest.mark.parametrize(
    ("loss_type", "objective"),
    [
        ("sigmoid", DPO(beta=0.3)),
        ("sigmoid_norm", DPO(beta=0.3, length_normalised=True)),
        ("hinge", HingeDPO(beta=0.3)),
        ("ipo", IPO(beta=0.3, length_normalised=True)),
        ("robust", RobustDPO(beta=0.3, label_smoothing=0.2)),
    ],
)
def test_pairs_are_trl(loss_type: str, objective: Objective):
    pairs, tokens = 7, 12
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, tokens + 1, (2 * pairs,), generator=generator)
    mask = torch.arange(tokens) < lengths[:, None]
    token_logps = -torch.rand(2 * pairs, tokens, dtype=torch.float64, generator=generator) * mask
    token_logps.requires_grad_()
    reference = -torch.rand(2 * pairs, dtype=torch.float64, generator=generator) * lengths
    smoothing = getattr(objective, "label_smoothing", 0.0)
    theirs = trl_loss(loss_type, 0.3, smoothing, token_logps, reference, mask)
    candidates = Candidates(
        logps=token_logps.sum(dim=1).view(2, pairs).T,
        lengths=lengths.view(2, pairs).T,
        scores=torch.tensor([[1.0, 0.0]]).expand(pairs, 2),
        mask=torch.ones(pairs, 2, dtype=torch.bool),
        reference_logps=reference.view(2, pairs).T,
    )
    ours = objective(candidates).loss.mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    (our_grad,) = torch.autograd.grad(ours, token_logps, retain_graph=True)
    (their_grad,) = torch.autograd.grad(theirs, token_logps)
    torch.testing.assert_close(our_grad * mask, their_grad * mask, rtol=1e-12, atol=1e-12)
