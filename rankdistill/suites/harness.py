"""Tasks of EleutherAI's lm-evaluation-harness on our models, from the hub's data or from files.

The task's definition is lm-eval's own; it asks and scores, and what is ours is where the model and
the data come from, and that answers are kept in the store. So figures equal those of lm-eval.
"""

from __future__ import annotations

import bz2
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rankdistill.console import result
from rankdistill.errors import UserError, first_line
from rankdistill.evaluate.items import ItemValues
from rankdistill.evaluate.schema import HarnessOptions
from rankdistill.fields import identity_of
from rankdistill.models.device import device
from rankdistill.prompts.sources import hub_identity, read_rows
from rankdistill.store.inputs import sha256
from rankdistill.suites.suite import Figure, Measured, Suite, item_figure
from rankdistill.suites.thinking import generates_answers

if TYPE_CHECKING:
    from rankdistill.stages.run import Model, Run
    from rankdistill.store import Output, Partial


SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
"""Of the file of a split, in the order in which they are looked for."""


def split_files(key: str, path: str, splits: Sequence[str]) -> dict[str, Path]:
    """The file of each split that a task needs.

    Args:
        key: The configuration's, for the error: ``eval.gsm8k.path``.
        path: A file, which is the one split that is needed, or a folder with a file per split.
        splits: The needed ones; the first is the one that is evaluated.

    Raises:
        UserError: there is no such file, or a split has none.
    """
    given = Path(path).expanduser().absolute()
    if given.is_file():
        if len(splits) == 1:
            return {splits[0]: given}
        given = given.parent
    if not given.is_dir():
        raise UserError(f"There is no file or folder '{path}' ({key}): correct the path.")
    found = {split: _of_split(given, split) for split in splits}
    missing = [split for split, file in found.items() if file is None]
    if missing:
        names = " and ".join(f"{split}.jsonl" for split in missing)
        raise UserError(f"The folder '{given}' ({key}) has no {names}: put the data there.")
    return {split: file for split, file in found.items() if file is not None}


def _of_split(folder: Path, split: str) -> Path | None:
    files = (folder / f"{split}{suffix}" for suffix in SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def task_rows(key: str, file: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a file. UserError: malformed, empty, or a row without one of the columns."""
    if file.name.endswith((".txt", ".txt.bz2")):
        rows = list(hellaswag_text(key, file))
    else:
        rows = [
            dict(_with_columns(key, row, where, columns)) for where, row in read_rows(str(file))
        ]
    if not rows:
        raise UserError(f"The file '{file}' ({key}) has no rows: give one that has.")
    return rows


def _with_columns(
    key: str, row: Mapping[str, Any], where: str, columns: Sequence[str]
) -> Mapping[str, Any]:
    missing = [column for column in columns if row.get(column) is None]
    if missing:
        raise UserError(
            f"There is no '{missing[0]}' in {where} ({key}): its columns must be "
            f"{', '.join(columns)}."
        )
    return row


def write_rows(rows: Sequence[Mapping[str, Any]], file: Path) -> str:
    """The rows as JSON lines, for `datasets`."""
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(file)


def hellaswag_text(key: str, file: Path) -> Iterator[dict[str, Any]]:
    """HellaSwag's rows from its text form: six lines per case, "activity: context", the number of
    the right ending, and four endings.

    The text has the two parts of a context joined. lm-eval begins the second with a capital letter,
    so it has to be found again: what follows the last sentence of a context that does not end with
    one. A context that does is left whole, as WikiHow's, which have no second part.

    Raises:
        UserError: the file is not of this form.
    """
    try:
        data = file.read_bytes()
        text = (bz2.decompress(data) if file.suffix == ".bz2" else data).decode("utf-8")
        lines = text.removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"The file '{file}' ({key}) can't be read: {error}.") from error
    for start in range(0, len(lines), 6):
        case = lines[start : start + 6]
        told, label = case[0], case[1] if len(case) == 6 else ""
        activity, colon, context = told.partition(": ")
        if not colon or label not in ("0", "1", "2", "3"):
            raise UserError(
                f"Line {start + 1} of '{file}' ({key}) begins no case of HellaSwag (activity: "
                "context, a number from 0 to 3, four endings): give its text or .jsonl form."
            )
        first, second = _parts(context)
        yield {
            "activity_label": activity,
            "ctx_a": first,
            "ctx_b": second,
            "endings": case[2:],
            "label": label,
        }


def _parts(context: str) -> tuple[str, str]:
    """A context's first part, and the beginning of the sentence that is to be completed."""
    end = max(context.rfind(mark) for mark in (". ", "! ", "? "))
    if end < 0 or context.rstrip().endswith((".", "!", "?")):
        return context, ""
    return context[: end + 1], context[end + 2 :]


@dataclass(frozen=True)
class HarnessSuite(HarnessOptions, Suite):
    """One task of lm-eval; the keys are explained in `eval/gsm8k.yaml`.

    Raises:
        UserError: a value out of its range.
    """

    name: ClassVar[str]
    hub: ClassVar[str]
    """The data set of the hub."""
    splits: ClassVar[tuple[str, str]]
    """Evaluated, and the one that examples are shown from."""
    columns: ClassVar[Sequence[str]]
    kept: ClassVar[Sequence[str]] = ()
    """Columns that an item keeps of its row."""
    metrics: ClassVar[Mapping[str, tuple[str, str]]]
    """Title and meaning by lm-eval's ``metric,filter``."""

    def about(self) -> str:
        """How it was measured, in a few words."""
        template = "chat template" if self.chat_template else "no chat template"
        limit = f", the first {self.limit}" if self.limit else ""
        through = f"lm-eval {version('lm_eval')} through {_BACKENDS[self.backend]}"
        return f"{self.shots}-shot, {template}{limit}, {through}"

    def check(self, run: Run) -> None:
        """Refuse a missing package or engine, and data that is not there or malformed."""
        if find_spec("lm_eval") is None:
            raise UserError(
                f"eval=[{self.name}] needs lm-eval: `pip install 'rankdistill[eval]'` brings it."
            )
        if self.backend == "vllm":
            from rankdistill.sample import resolve_sampler

            resolve_sampler("vllm")
        self.data_identity()
        self._local_rows()

    def data_identity(self) -> dict[str, Any]:
        """What determines the data: files, or a commit of the hub. UserError: there is none."""
        if self.path is not None:
            return {split: sha256(file) for split, file in self._files().items()}
        remedy = (
            f"give the data of eval=[{self.name}] with eval.{self.name}.path=FILE, or run once "
            "with a connection."
        )
        return dict(hub_identity(self.hub, remedy=remedy))

    def measure(self, run: Run, model: Model, role: str) -> Measured:
        """The figures of a model, from the store where they are known; see `Suite`."""
        what = f"{role}: {self.name}, {self.about()}"
        return self._measured(self.asked_of(run, model, what, self.name))

    def asked_of(
        self, run: Run, model: Model, what: str, suite: str, *, instead: Sequence[str] = ()
    ) -> Output:
        """What lm-eval makes of a model's answers, from the store where it is there: `items`.

        Args:
            run: Where it is measured.
            model: Who answers.
            what: For the person.
            suite: The output's name.
            instead: Keys that say nothing of it.
        """
        identity = {
            "code": 1,
            "suite": suite,
            "lm_eval": version("lm_eval"),
            "model": model.identity,
            "data": self.data_identity(),
            "dtype": run.settings.sample.vllm.dtype if self.backend == "vllm" else None,
            **identity_of(self, instead=("path", *instead)),
            **({"thoughts": 2} if model.thoughts_identity else {}),
        }

        def make(partial: Partial) -> Mapping[str, Any]:
            run.close_sampler()
            rows = self._rows(run, model, partial)
            partial.shards("items").put(rows)
            lost = sum(row.get("text") == "" for row in rows) if model.thoughts_identity else 0
            return {"items": len(rows), **({"thoughts_without_answer": lost} if lost else {})}

        output = run.stage("evaluate", what, identity, make)
        if lost := output.manifest["counts"].get("thoughts_without_answer"):
            result(
                f"{lost} responses have no answer behind their thought: raise "
                f"eval.{self.name}.max_response_tokens."
            )
        return output

    def task(self, files: Mapping[str, str] | None, scratch: Path) -> Any:
        """The task for lm-eval: a file that includes its own, with local data for the hub's.

        Args:
            files: JSON lines by split; None is the hub's data.
            scratch: Where the file and what `datasets` makes of the data may be.
        """
        own = _tasks() / self.name / f"{self.name}.yaml"
        definition = {"include": str(own), "task": self.name, **local_data(files, scratch)}
        file = scratch / "task.yaml"
        # JSON is YAML.
        file.write_text(json.dumps(definition), encoding="utf-8")
        return str(file)

    def _rows(self, run: Run, model: Model, partial: Partial) -> list[dict[str, Any]]:
        with _quiet(), self._explained():
            import lm_eval
            from lm_eval.tasks import TaskManager

            from rankdistill.suites.resuming import Resuming

            evaluate: Any = lm_eval.simple_evaluate  # decorated, which hides its arguments
            length = self.max_response_tokens and {"max_gen_toks": self.max_response_tokens}
            with self._lm(run, model) as lm:
                results = evaluate(
                    model=Resuming(lm, partial.shards("answers"), self.batch_size),
                    tasks=[self.task(self._written(partial), partial.scratch)],
                    # Without an index of lm-eval's thousands of tasks.
                    task_manager=TaskManager(
                        include_path=str(_tasks() / self.name), include_defaults=False
                    ),
                    num_fewshot=self.shots,
                    limit=self.limit,
                    apply_chat_template=self.chat_template,
                    gen_kwargs=length,
                    bootstrap_iters=0,
                )
        return _items(next(iter(results["samples"].values())), self.kept)

    @contextmanager
    def _lm(self, run: Run, model: Model) -> Iterator[Any]:
        if self.backend == "vllm":
            from rankdistill.suites.resuming import vllm_model

            with vllm_model(run, model, self.batch_size) as lm:
                generates_answers(lm, model, chat=self.chat_template)
                yield lm
            return
        from rankdistill.suites.shared_contexts import SharedContexts

        lm = SharedContexts(
            model.load_on_device(),
            tokenizer=model.path,
            batch_size=self.batch_size,
            trust_remote_code=model.loading.trust_remote_code,
            device=str(device()),
        )
        generates_answers(lm, model, chat=self.chat_template)
        yield lm

    def _files(self) -> dict[str, Path]:
        needed = self.splits if self.shots else self.splits[:1]
        return split_files(f"eval.{self.name}.path", self.path or "", list(dict.fromkeys(needed)))

    def _local_rows(self) -> dict[str, list[dict[str, Any]]] | None:
        if self.path is None:
            return None
        key = f"eval.{self.name}.path"
        files = self._files().items()
        return {split: task_rows(key, file, self.columns) for split, file in files}

    def _written(self, partial: Partial) -> dict[str, str] | None:
        rows = self._local_rows()
        if rows is None:
            return None
        return {s: write_rows(r, partial.scratch / f"{s}.jsonl") for s, r in rows.items()}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What another library says of the hub's data as one sentence."""
        from datasets.exceptions import DatasetsError

        try:
            yield
        except (DatasetsError, ConnectionError) as error:
            raise UserError(
                f"The data of eval=[{self.name}] cannot be read ({first_line(error)[:-1]}): give a "
                f"local copy with eval.{self.name}.path."
            ) from error

    def _measured(self, output: Output) -> Measured:
        rows = output.rows("items")
        return Measured(self._figures(rows), {"items": len(rows)})

    def _figures(self, rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
        return [
            item_figure(key, *words, item_values(rows, key)) for key, words in self.metrics.items()
        ]


def item_values(rows: Sequence[Mapping[str, Any]], key: str) -> ItemValues:
    """A metric by item: a verdict, or several of which each counts."""
    values = {row["id"]: row["values"][key] for row in rows}
    if any(isinstance(value, list) for value in values.values()):
        return ItemValues.of_lists({id: [*map(float, of)] for id, of in values.items()})
    return ItemValues.of({id: float(value) for id, value in values.items()})


_BACKENDS = {"hf": "transformers", "vllm": "vLLM"}


def _tasks() -> Path:
    import lm_eval

    return Path(lm_eval.__file__).parent / "tasks"


def local_data(files: Mapping[str, str] | None, scratch: Path) -> dict[str, Any]:
    """The keys of a task's definition that say where its data is; nothing for the hub's."""
    if files is None:
        return {}
    # lm-eval reads a split that it would show examples from even where it shows none.
    shown = {} if "train" in files else {"training_split": None, "fewshot_split": None}
    return {
        **shown,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": dict(files), "cache_dir": str(scratch / "cache")},
    }


def _items(samples: Sequence[Mapping[str, Any]], kept: Sequence[str]) -> list[dict[str, Any]]:
    """One row per item: what lm-eval made of it, by ``metric,filter``, and what the model wrote."""
    rows: dict[str, dict[str, Any]] = {}
    for sample in samples:
        id, doc = str(sample["doc_id"]), sample["doc"]
        row = rows.setdefault(id, {"id": id, "values": {}, **{c: doc[c] for c in kept}})
        for metric in sample["metrics"]:
            row["values"][f"{metric},{sample['filter']}"] = sample[metric]
        written = sample["resps"][0][0]
        if isinstance(written, str):
            row["text"] = written
    return list(rows.values())


@contextmanager
def _quiet() -> Iterator[None]:
    """All logs (lm-eval's, vLLM's, Triton's), bars, and the git that is asked for a commit."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    errors = os.dup(2)
    try:
        # Left open: a library that is first imported here logs to this stream from then on.
        nowhere = open(os.devnull, "w")  # noqa: SIM115
        with redirect_stderr(nowhere):
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(errors, 2)
        os.close(errors)
        logging.disable(disabled)
