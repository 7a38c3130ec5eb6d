"""What other people's code may import keeps its name, see docs/reference.md."""

from __future__ import annotations

from importlib import import_module

import pytest

PUBLIC = {
    "rankdistill": ["RankingConfig", "RankingTrainer"],
    "rankdistill.objectives": [
        "Candidates", "ObjectiveOutput", "RRHF", "PRO", "DPO", "RobustDPO", "HingeDPO", "IPO",
        "PlackettLuceDPO", "LiPO", "ListNet", "SLiC", "SimPO", "ORPO", "CPO", "KTO", "SFT",
    ],
    "rankdistill.warmup.divergences": ["forward_kl", "reverse_kl", "jsd"],
    "rankdistill.train.reward": ["ranking_loss"],
    "rankdistill.train.ppo": ["gae", "policy_loss", "value_loss"],
    "rankdistill.forward": ["TokenGroup", "GroupBatch", "collate", "response_logps", "bind"],
}  # fmt: skip


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_stay(module):
    assert [name for name in PUBLIC[module] if not hasattr(import_module(module), name)] == []
