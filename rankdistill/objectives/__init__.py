"""What a ranking teaches: one file an objective, all on the same ranked lists."""

from rankdistill.objectives.base import Candidates, Objective, ObjectiveOutput
from rankdistill.objectives.dpo import DPO
from rankdistill.objectives.pro import PRO
from rankdistill.objectives.rrhf import RRHF

__all__ = ["DPO", "PRO", "RRHF", "Candidates", "Objective", "ObjectiveOutput"]
