"""What a ranking teaches: one file per objective, all of them on the same ranked lists."""

from rankdistill.objectives.candidates import Candidates, Objective, ObjectiveOutput
from rankdistill.objectives.cpo import CPO
from rankdistill.objectives.dpo import DPO
from rankdistill.objectives.hinge_dpo import HingeDPO
from rankdistill.objectives.ipo import IPO
from rankdistill.objectives.kto import KTO
from rankdistill.objectives.lipo import LiPO
from rankdistill.objectives.listnet import ListNet
from rankdistill.objectives.orpo import ORPO
from rankdistill.objectives.plackett_luce import PlackettLuceDPO
from rankdistill.objectives.pro import PRO
from rankdistill.objectives.robust_dpo import RobustDPO
from rankdistill.objectives.rrhf import RRHF
from rankdistill.objectives.sft import SFT
from rankdistill.objectives.simpo import SimPO
from rankdistill.objectives.slic import SLiC

__all__ = [
    "CPO",
    "DPO",
    "IPO",
    "KTO",
    "ORPO",
    "PRO",
    "RRHF",
    "SFT",
    "Candidates",
    "HingeDPO",
    "LiPO",
    "ListNet",
    "Objective",
    "ObjectiveOutput",
    "PlackettLuceDPO",
    "RobustDPO",
    "SLiC",
    "SimPO",
]
