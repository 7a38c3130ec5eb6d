"""IFEval and IFBench: instructions whose following a program can verify."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rankdistill.console import result
from rankdistill.errors import UserError, first_line
from rankdistill.evaluate.items import ItemValues
from rankdistill.evaluate.schema import IFBenchOptions, IFEvalOptions
from rankdistill.store.inputs import sha256
from rankdistill.suites.harness import HarnessSuite, item_values, local_data
from rankdistill.suites.suite import Figure, Measured, item_figure

if TYPE_CHECKING:
    from rankdistill.stages.run import Model, Run
    from rankdistill.store import Partial

PUNKT = "tokenizers/punkt_tab"
NLTK_DATA = ("punkt_tab", "stopwords", "averaged_perceptron_tagger_eng")
"""What the classes of IFBench ask NLTK for."""
Follows = Callable[[str, str, Mapping[str, Any], str], bool]
"""Of a response, the name of a kind, its arguments and the prompt."""
Verdict = Callable[[Mapping[str, Any], list[str]], Mapping[str, Any]]
"""Of a row and the one response to it, by the name of a metric: lm-eval's `process_results`."""


MEANS = {
    f"mean_{how}": (f"prompt_level_{how}_acc,none", f"inst_level_{how}_acc,none")
    for how in ("strict", "loose")
}
"""The metrics that each is the mean of."""


def _metrics(name: str) -> Mapping[str, tuple[str, str]]:
    return {
        "prompt_level_strict_acc,none": (
            f"{name}, prompts",
            "Responses that follow all instructions of their prompt.",
        ),
        "inst_level_strict_acc,none": (f"{name}, instructions", "Instructions that are followed."),
        "prompt_level_loose_acc,none": (
            f"{name}, prompts, loose",
            "The same where a first or last line, or asterisks, may be left out.",
        ),
        "inst_level_loose_acc,none": (
            f"{name}, instructions, loose",
            "Instructions that are followed by one of these variants.",
        ),
    }


@dataclass(frozen=True, kw_only=True)
class InstructionSuite(HarnessSuite):
    """Prompts whose rows name the kinds of their instructions, and the arguments of each.

    Answers are kept apart from the verdicts on them: another checker asks no model again.
    """

    checker: str

    splits = ("train", "train")
    columns = kept = ("key", "prompt", "instruction_id_list", "kwargs")

    @property
    def checked_by(self) -> str:
        """Whose verdicts they are, for a person."""
        raise NotImplementedError

    def verdict(self) -> Verdict:
        """Says what a response follows."""
        raise NotImplementedError

    def code_identity(self) -> Mapping[str, str]:
        """What determines the verdicts besides the answers and `checker`; mostly nothing."""
        return {}

    def about(self) -> str:
        """How it was measured, in a few words."""
        return f"{super().about()}, {self.checked_by}"

    def measure(self, run: Run, model: Model, role: str) -> Measured:
        """The figures of a model, from the store where they are known; see `Suite`."""
        what = f"{role}: {self.name}, {super().about()}"
        answers = self.asked_of(run, model, what, f"{self.name} answers", instead=("checker",))
        identity = {
            "code": 1,
            "suite": self.name,
            "model": model.identity,
            "answers": answers.key,
            "checker": self.checker,
            **self.code_identity(),
        }

        def make(output: Partial) -> Mapping[str, Any]:
            verdict, rows = self.verdict(), answers.rows("items")
            items = [
                {**row, "values": {f"{m},none": v for m, v in verdict(row, [row["text"]]).items()}}
                for row in rows
            ]
            output.shards("items").put(items)
            return {"items": len(items)}

        what = f"{role}: {self.name}, {self.checked_by}"
        return self._measured(run.stage("evaluate", what, identity, make))

    def asked(self) -> Iterator[tuple[int, Mapping[str, Any], str, Mapping[str, Any]]]:
        """Number of the row, the row, kind and arguments of every instruction of local rows.

        Raises:
            UserError: a row has not one set of arguments for every kind.
        """
        for rows in (self._local_rows() or {}).values():
            for number, row in enumerate(rows, 1):
                kinds, given = row["instruction_id_list"], row["kwargs"]
                lists = isinstance(kinds, list) and isinstance(given, list)
                if not lists or len(kinds) != len(given):
                    raise UserError(
                        f"row {number} of eval.{self.name}.path has not one set of arguments "
                        "(kwargs) for every kind of its instruction_id_list: both are lists."
                    )
                for kind, arguments in zip(kinds, given, strict=True):
                    yield number, row, kind, arguments or {}

    def _figures(self, rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
        return [*self._means(rows), *super()._figures(rows)]

    def _means(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
        """The one figure of a model's card: the mean of the shares of prompts and instructions."""
        for how, comma in (("strict", ""), ("loose", ", loose")):
            key = f"mean_{how}"
            values = ItemValues.mean_of([item_values(rows, of) for of in MEANS[key]])
            meaning = f"The mean of the two shares, of prompts and of instructions{comma}."
            yield item_figure(key, f"{self.name}, mean{comma}", meaning, values)

    def task(self, files: Mapping[str, str] | None, scratch: Path) -> Any:
        """lm-eval's definition of IFEval without a checker: its own imports NLTK's download."""
        from lm_eval.api.task import ConfigurableTask

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
            "process_results": lambda doc, results: {"answered": 1},
            "metric_list": [
                {"metric": "answered", "aggregation": "mean", "higher_is_better": True}
            ],
        }
        return ConfigurableTask(config={**definition, **local_data(files, scratch)})


@dataclass(frozen=True)
class IFEval(IFEvalOptions, InstructionSuite):
    """Instructions that can be verified (Zhou et al. 2023, arXiv:2311.07911).

    lm-eval's checker counts sentences and words with NLTK's punkt_tab, which is a download of its
    own; ours needs none (`rankdistill.score.verifier.instructions`) and may differ on sentences,
    words in capitals, and where texts are on the edge of a rule.
    """

    name: ClassVar[str] = "ifeval"
    hub = "google/IFEval"
    metrics: ClassVar[Mapping[str, tuple[str, str]]] = _metrics("ifeval")

    @property
    def checked_by(self) -> str:
        """Whose verdicts they are, for a person."""
        return "lm-eval's checker" if self.checker == "lm_eval" else "our checker"

    def check(self, run: Run) -> None:
        """As for every task; and the data, or the package, that the checker needs."""
        super().check(run)
        from rankdistill.score.verifier.instructions import check_names

        for number, row, _, _ in self.asked():
            try:
                check_names(row)
            except UserError as error:
                raise UserError(
                    f"row {number} of eval.ifeval.path: {error} Kinds that another module knows "
                    "are measured by eval=[ifbench] (eval.ifbench.checker)."
                ) from error
        if self.checker == "lm_eval":
            _require_punkt()
            return
        if find_spec("langdetect") is None:
            raise UserError(
                "eval.ifeval.checker=own needs langdetect: `pip install 'rankdistill[verifier]'` "
                "brings it."
            )

    def code_identity(self) -> Mapping[str, str]:
        """Of lm-eval's checker, its version."""
        return {"lm_eval": version("lm_eval")} if self.checker == "lm_eval" else {}

    def verdict(self) -> Verdict:
        """lm-eval's `process_results`, or ours."""
        if self.checker == "own":
            return verdicts
        from lm_eval.tasks.ifeval.utils import process_results

        return process_results


@dataclass(frozen=True)
class IFBench(IFBenchOptions, InstructionSuite):
    """58 kinds of instructions that IFEval has not (Pyatkin et al. 2025, arXiv:2507.02833).

    Who verifies is a module of others: `INSTRUCTION_DICT` has a class per kind, in the form of
    IFEval's (`build_description`, `get_instruction_args`, `check_following`), so rows of kinds of
    your own are measured as well. The paper's figure is `prompt_level_loose_acc`.
    """

    name: ClassVar[str] = "ifbench"
    hub = "allenai/IFBench_test"
    metrics: ClassVar[Mapping[str, tuple[str, str]]] = _metrics("ifbench")

    @property
    def checked_by(self) -> str:
        """Whose verdicts they are, for a person."""
        return self.checker

    def check(self, run: Run) -> None:
        """As for every task; the module, and that it knows the kinds of local rows."""
        super().check(run)
        checks, seen = _Checks(self.checker, self._kinds()), set[str]()
        for number, row, kind, given in self.asked():
            if kind not in seen:
                checks.require_known(kind, f"row {number} of eval.ifbench.path asks for")
                checks.require(kind, given, row["prompt"])
                seen.add(kind)

    def verdict(self) -> Verdict:
        """Those of the module's classes."""
        return partial(verdicts, follows=_Checks(self.checker, self._kinds()).follows)

    def code_identity(self) -> Mapping[str, str]:
        """The sources of the module, and of those beside it that it may be made of."""
        self._kinds()
        own = Path(str(sys.modules[self.checker].__file__))
        sources = sorted(own.parent.glob("*.py")) if "." in self.checker else [own]
        digests = "".join(f"{file.name} {sha256(file)}\n" for file in sources)
        return {"sources": hashlib.sha256(digests.encode()).hexdigest()}

    def _kinds(self) -> Mapping[str, Any]:
        remedy = "`pip install ifbench` brings ifbench.instructions_registry"
        try:
            module = import_module(self.checker)
        except Exception as error:  # a module of one's own raises whatever is wrong with it
            why = first_line(error)[:-1]
            raise UserError(
                f"eval.ifbench.checker={self.checker} cannot be imported ({why}): {remedy}."
            ) from error
        kinds = getattr(module, "INSTRUCTION_DICT", None)
        if not isinstance(kinds, Mapping):
            raise UserError(
                f"eval.ifbench.checker={self.checker} has no INSTRUCTION_DICT, a class per kind "
                f"of instruction: {remedy}."
            )
        return kinds


def verdicts(
    doc: Mapping[str, Any], results: list[str], follows: Follows | None = None
) -> dict[str, Any]:
    """What a response follows, strict and loose, in the form of lm-eval's `process_results`.

    Loose (section 2.2 of the paper): one of eight variants of the response, without its first line,
    its last one, both, or none, and with or without asterisks.

    Args:
        doc: A row of the task's data.
        results: The response.
        follows: Who verifies; None: our checker of IFEval's kinds.
    """
    verified = follows or _followed
    response = results[0]
    lines = response.split("\n")
    whole = (response, "\n".join(lines[1:]), "\n".join(lines[:-1]), "\n".join(lines[1:-1]))
    variants = [v.strip() if v is not response else v for v in whole]
    variants += [variant.replace("*", "") for variant in variants]
    asked = [
        (kind, given or {}, doc["prompt"])
        for kind, given in zip(doc["instruction_id_list"], doc["kwargs"], strict=True)
    ]
    strict = [verified(response, *instruction) for instruction in asked]
    loose = [any(verified(v, *instruction) for v in variants) for instruction in asked]
    return {
        "prompt_level_strict_acc": all(strict),
        "inst_level_strict_acc": strict,
        "prompt_level_loose_acc": all(loose),
        "inst_level_loose_acc": loose,
    }


def _followed(response: str, kind: str, given: Mapping[str, Any], _prompt: str) -> bool:
    from rankdistill.score.verifier.instructions import follows

    return follows(response, kind, given)


@dataclass(frozen=True)
class _Checks:
    """The classes of a module, by kind; a check that fails is told once per kind."""

    module: str
    kinds: Mapping[str, Any]
    _told: set[str] = field(default_factory=set)

    def follows(self, response: str, kind: str, given: Mapping[str, Any], prompt: str) -> bool:
        """A response of blanks follows nothing, nor does one on which the check itself fails.

        Raises:
            UserError: the module does not know the kind, or needs what is not installed.
        """
        self.require_known(kind, "the data of eval=[ifbench] ask for")
        try:
            return bool(response.strip()) and self._checked(response, kind, given, prompt)
        except Exception as error:
            self._refuse_missing(kind, error)
            if kind not in self._told:
                self._told.add(kind)
                result(
                    f"{self.module} fails at a response to '{kind}' ({type(error).__name__}: "
                    f"{first_line(error)[:-1]}): such responses count as not following."
                )
            return False

    def require_known(self, kind: str, who: str) -> None:
        """UserError: the module has no class for this kind."""
        if kind not in self.kinds:
            raise UserError(
                f"{who} '{kind}', which {self.module} does not know: name the module that does "
                "with eval.ifbench.checker."
            )

    def require(self, kind: str, given: Mapping[str, Any], prompt: str) -> None:
        """UserError: to check this kind, something is not installed."""
        try:
            self._checked("A sentence of five words. And another.", kind, given, prompt)
        except Exception as error:
            self._refuse_missing(kind, error)

    def _checked(self, response: str, kind: str, given: Mapping[str, Any], prompt: str) -> bool:
        instruction = self.kinds[kind](kind)
        # A row has every argument of every kind, and those that are not this one's are null.
        instruction.build_description(**{k: v for k, v in given.items() if v is not None})
        if "prompt" in (instruction.get_instruction_args() or ()):
            instruction.build_description(prompt=prompt)
        return bool(instruction.check_following(response))

    def _refuse_missing(self, kind: str, error: Exception) -> None:
        if not isinstance(error, ImportError) and type(error) is not LookupError:  # NLTK's
            return
        plain = re.sub(r"\x1b\[[\d;]*m", "", str(error))  # NLTK writes the name in yellow
        missing = re.search(r"Resource \W*(\w+)\W* not found", plain)
        what = f"NLTK's {missing[1]}" if missing else first_line(error)[:-1]
        raise UserError(
            f"{self.module} cannot check '{kind}' without what is not installed ({what}). What "
            f"ifbench needs: `python -m nltk.downloader {' '.join(NLTK_DATA)}`."
        ) from error


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
