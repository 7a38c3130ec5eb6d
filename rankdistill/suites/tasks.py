"""GSM8K and HellaSwag, as lm-eval defines them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rankdistill.errors import UserError
from rankdistill.models import Model
from rankdistill.suites.harness import HarnessSuite

if TYPE_CHECKING:
    from rankdistill.stages.run import Run


@dataclass(frozen=True)
class GSM8K(HarnessSuite):
    """Grade-school mathematics (Cobbe et al. 2021, arXiv:2110.14168)."""

    name: ClassVar[str] = "gsm8k"
    hub = "openai/gsm8k"
    splits = ("test", "train")
    columns = ("question", "answer")
    metrics: ClassVar[Mapping[str, tuple[str, str]]] = {
        "exact_match,strict-match": (
            "gsm8k, strict",
            "The number after #### is the right one, in the form that the examples show.",
        ),
        "exact_match,flexible-extract": (
            "gsm8k, flexible",
            "The last number of the response is the right one.",
        ),
    }


@dataclass(frozen=True)
class HellaSwag(HarnessSuite):
    """The right one of four endings (Zellers et al. 2019, arXiv:1905.07830)."""

    name: ClassVar[str] = "hellaswag"
    hub = "Rowan/hellaswag"
    splits = ("validation", "train")
    columns = ("activity_label", "ctx_a", "ctx_b", "endings", "label")
    metrics: ClassVar[Mapping[str, tuple[str, str]]] = {
        "acc_norm,none": (
            "hellaswag, by length",
            "The right ending has the highest log-probability per character (acc_norm).",
        ),
        "acc,none": ("hellaswag", "The right ending has the highest log-probability (acc)."),
    }

    def check(self, run: Run) -> None:
        """As for every task; an ending is no beginning of a thought."""
        super().check(run)
        models = (run.start, run.teacher, run.base) if self.chat_template else ()
        for model in models:
            if isinstance(model, Model) and model.thoughts_identity:
                raise UserError(
                    f"eval.hellaswag.chat_template=true has an ending follow the prompt, where the "
                    f"chat template of {model.path} has a thought: have it leave thoughts out "
                    "('student.chat_template_kwargs={enable_thinking: false}', where it reads "
                    "that), or set eval.hellaswag.chat_template=false."
                )
