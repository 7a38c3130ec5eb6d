"""GSM8K, HellaSwag and IFEval, as lm-eval defines them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rankdistill.errors import UserError
from rankdistill.evaluate.items import ItemValues
from rankdistill.evaluate.schema import IFEvalOptions
from rankdistill.models import Model
from rankdistill.suites.harness import HarnessSuite, item_values, local_data
from rankdistill.suites.suite import Figure, item_figure

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


PUNKT = "tokenizers/punkt_tab"


@dataclass(frozen=True)
class IFEval(IFEvalOptions, HarnessSuite):
    """Instructions that can be verified (Zhou et al. 2023, arXiv:2311.07911).

    lm-eval's checker counts sentences and words with NLTK's punkt_tab, which is a download of its
    own; ours needs none (`rankdistill.score.verifier.instructions`) and may differ on sentences,
    words in capitals, and where texts are on the edge of a rule.
    """

    name: ClassVar[str] = "ifeval"
    hub = "google/IFEval"
    splits = ("train", "train")
    columns = ("key", "prompt", "instruction_id_list", "kwargs")
    metrics: ClassVar[Mapping[str, tuple[str, str]]] = {
        "prompt_level_strict_acc,none": (
            "ifeval, prompts",
            "Responses that follow all instructions of their prompt.",
        ),
        "inst_level_strict_acc,none": ("ifeval, instructions", "Instructions that are followed."),
        "prompt_level_loose_acc,none": (
            "ifeval, prompts, loose",
            "The same where a first or last line, or asterisks, may be left out.",
        ),
        "inst_level_loose_acc,none": (
            "ifeval, instructions, loose",
            "Instructions that are followed by one of these variants.",
        ),
    }

    means: ClassVar[Mapping[str, tuple[str, str, tuple[str, str]]]] = {
        f"mean_{how}": (
            f"ifeval, mean{comma}",
            f"The mean of the two shares, of prompts and of instructions{comma}.",
            (f"prompt_level_{how}_acc,none", f"inst_level_{how}_acc,none"),
        )
        for how, comma in (("strict", ""), ("loose", ", loose"))
    }
    """Title, meaning and what it is the mean of, by key: the one figure of a model's card."""

    def _figures(self, rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
        means = [
            item_figure(
                key, title, meaning, ItemValues.mean_of([item_values(rows, of) for of in parts])
            )
            for key, (title, meaning, parts) in self.means.items()
        ]
        return [*means, *super()._figures(rows)]

    def about(self) -> str:
        """How it was measured, in a few words."""
        checked = "lm-eval's checker" if self.checker == "lm_eval" else "our checker"
        return f"{super().about()}, {checked}"

    def check(self, run: Run) -> None:
        """As for every task; and the data, or the package, that the checker needs."""
        super().check(run)
        if self.checker == "lm_eval":
            _require_punkt()
            return
        if find_spec("langdetect") is None:
            raise UserError(
                "eval.ifeval.checker=own needs langdetect: `pip install 'rankdistill[verifier]'` "
                "brings it."
            )

    def task(self, files: Mapping[str, str] | None, scratch: Path) -> Any:
        """lm-eval's task; with our checker its definition with another verdict."""
        if self.checker == "lm_eval":
            return super().task(files, scratch)
        from lm_eval.api.task import ConfigurableTask

        # lm-eval's file names its own checker, whose import looks for NLTK's download.
        definition = {
            "task": self.name,
            "dataset_path": self.hub,
            "output_type": "generate_until",
            "test_split": "train",
            "num_fewshot": 0,
            "doc_to_text": "prompt",
            "doc_to_target": 0,
            "generation_kwargs": {
                "until": [],
                "do_sample": False,
                "temperature": 0.0,
                "max_gen_toks": 1280,
            },
            "process_results": verdicts,
            "metric_list": [
                {
                    "metric": key.removesuffix(",none"),
                    "aggregation": _mean_of_lists if key.startswith("inst") else "mean",
                    "higher_is_better": True,
                }
                for key in self.metrics
            ],
        }
        return ConfigurableTask(config={**definition, **local_data(files, scratch)})


def verdicts(doc: Mapping[str, Any], results: list[str]) -> dict[str, Any]:
    """Our checker in the place of lm-eval's `process_results`: what is followed, strict and loose.

    Loose (section 2.2 of the paper): one of eight variants of the response, without its first line,
    its last one, both, or none, and with or without asterisks.
    """
    from rankdistill.score.verifier.instructions import follows

    response = results[0]
    lines = response.split("\n")
    whole = (response, "\n".join(lines[1:]), "\n".join(lines[:-1]), "\n".join(lines[1:-1]))
    variants = [v.strip() if v is not response else v for v in whole]
    variants += [variant.replace("*", "") for variant in variants]
    asked = list(zip(doc["instruction_id_list"], doc["kwargs"], strict=True))
    strict = [follows(response, name, given or {}) for name, given in asked]
    loose = [any(follows(v, name, given or {}) for v in variants) for name, given in asked]
    return {
        "prompt_level_strict_acc": all(strict),
        "inst_level_strict_acc": strict,
        "prompt_level_loose_acc": all(loose),
        "inst_level_loose_acc": loose,
    }


def _mean_of_lists(items: list[list[bool]]) -> float:
    flat = [followed for item in items for followed in item]
    return sum(flat) / len(flat)


def _require_punkt() -> None:
    if not all(map(find_spec, ("nltk", "immutabledict", "langdetect"))):
        raise UserError(
            "eval=[ifeval] needs more than lm-eval: `pip install 'rankdistill[eval]'` brings it."
        )
    import nltk

    try:
        nltk.data.find(PUNKT)
    except LookupError as error:
        raise UserError(
            "eval=[ifeval] needs NLTK's punkt_tab: `python -m nltk.downloader punkt_tab` brings "
            "it, or eval.ifeval.checker=own does without."
        ) from error
