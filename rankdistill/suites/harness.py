"""Tasks of EleutherAI's lm-evaluation-harness on our models, from the hub's data or from files.

The task's definition is lm-eval's own; it asks and scores, and what is ours is where the model and
the data come from, and that answers are kept in the store. So figures equal those of lm-eval.
"""

from __future__ import annotations

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

from rankdistill.errors import UserError, first_line
from rankdistill.evaluate.schema import HarnessOptions
from rankdistill.fields import identity_of
from rankdistill.models.device import device
from rankdistill.prompts.sources import source_identity
from rankdistill.suites.local import files_identity, split_files, task_rows, write_rows
from rankdistill.suites.suite import Figure, Measured, Suite, mean_figure

if TYPE_CHECKING:
    from rankdistill.stages.run import Model, Run
    from rankdistill.store import Output, Partial

BATCHES_KEPT = 8
"""Batches whose answers are written at once. lm-eval sorts the requests of a call by length."""


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
            return files_identity(self._files())
        try:
            return dict(source_identity(self.hub))
        except UserError as error:
            raise UserError(
                f"The data of eval=[{self.name}] cannot be had ({str(error).rstrip('.')}): give a "
                f"local copy with eval.{self.name}.path."
            ) from error

    def measure(self, run: Run, model: Model, role: str) -> Measured:
        """The figures of a model, from the store where they are known; see `Suite`."""
        identity = {
            "code": 1,
            "suite": self.name,
            "lm_eval": version("lm_eval"),
            "model": model.identity,
            "data": self.data_identity(),
            "dtype": run.settings.sample.vllm.dtype if self.backend == "vllm" else None,
            **identity_of(self, instead=("path",)),
        }

        def make(partial: Partial) -> Mapping[str, Any]:
            run.close_sampler()
            rows = self._rows(run, model, partial)
            partial.shards("items").put(rows)
            return {"items": len(rows)}

        what = f"{role}: {self.name}, {self.about()}"
        return self._measured(run.stage("evaluate", what, identity, make))

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
                    model=Resuming(lm, partial.shards("answers"), BATCHES_KEPT * self.batch_size),
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
        return _items(next(iter(results["samples"].values())))

    @contextmanager
    def _lm(self, run: Run, model: Model) -> Iterator[Any]:
        if self.backend == "vllm":
            from rankdistill.suites.vllm_backend import vllm_model

            with vllm_model(run, model, self.batch_size) as lm:
                yield lm
            return
        from lm_eval.models import huggingface

        loaded: Any = huggingface.HFLM
        yield loaded(
            pretrained=model.load_on_device(),
            tokenizer=model.path,
            batch_size=self.batch_size,
            trust_remote_code=model.loading.trust_remote_code,
            device=str(device()),
        )

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
        figures = [self._figure(key, *words, rows) for key, words in self.metrics.items()]
        return Measured(figures, {"items": len(rows)})

    def _figure(
        self, key: str, title: str, meaning: str, rows: Sequence[Mapping[str, Any]]
    ) -> Figure:
        values = [row["values"][key] for row in rows]
        if values and isinstance(values[0], list):  # several verdicts per item, each counted
            flat = [float(value) for item in values for value in item]
            mean = sum(flat) / len(flat)
            return Figure(key, title, meaning, mean, None, None, len(flat))
        return mean_figure(key, title, meaning, [float(value) for value in values])


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


def _items(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per item: what lm-eval made of it, by ``metric,filter``, and what the model wrote."""
    rows: dict[str, dict[str, Any]] = {}
    for sample in samples:
        row = rows.setdefault(str(sample["doc_id"]), {"id": str(sample["doc_id"]), "values": {}})
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
