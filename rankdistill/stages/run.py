"""What the stages of one run share: settings, store, sampler, and the record of what was done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rankdistill import console, models
from rankdistill.distributed import workers
from rankdistill.models.device import device, own_precision, release
from rankdistill.models.locate import check_path
from rankdistill.models.model import Loading, Model, ServedModel
from rankdistill.prompts.privileged import TeachersView
from rankdistill.report.run_report import StageRecord
from rankdistill.sample import (
    Sampler,
    check_parallel,
    open_sampler,
    resolve_sampler,
    sampler_options,
    served_sampler,
)
from rankdistill.schema import Precision, StudentConfig, TeacherConfig
from rankdistill.score.scorer import TeacherAccess
from rankdistill.shell import interruptions_kept
from rankdistill.stages.settings import Settings, with_precision
from rankdistill.store import Output, Partial, Store
from rankdistill.trackers import tracked
from rankdistill.train.schema import PPOTrainOptions, TrainOptions

WRITERS = ("student", "teacher", "endpoint")
"""Names in `sample.writers` that are no paths."""
TEACHERS = ("teacher", "endpoint")
"""Names in `train.teachers` that are no paths."""
UNSAID = ("seconds", "peak_mib", "peak_gpu_mib", "peak_card_mib", "models", "belongs_of")
"""Counts that the log and the report have, and the terminal has not."""
IN_WORDS = {
    "belongs": "share that belong to their request",
    "heldout": "held out",
    "teacher_logp": "teacher's log-probability",
}
"""Counts whose name is not what they are."""


@dataclass
class Run:
    """One run over one store."""

    settings: Settings
    store: Store
    folder: Path
    records: list[StageRecord] = field(default_factory=list)
    unchecked: dict[str, list[Output]] = field(default_factory=dict)
    """Samples that no loaded model was held against yet, by the path of who wrote them."""
    _sampler: Sampler | None = None
    _opened: tuple[str, dict[str, Any]] | None = None
    """Name and options of the sampler that is open."""
    teaching: dict[str, Model] = field(default_factory=dict)
    """Teachers of `train.teachers` that are named by their path."""
    _others: dict[str, Model] = field(default_factory=dict)
    """Writers that are named by their path."""
    _letting_go: list[Callable[[], Any]] = field(default_factory=list)
    """What drops the models that lie where the sampler's are to go."""

    def __post_init__(self) -> None:
        self.settings = with_precision(self.settings, own_precision())
        teacher, student = self.settings.teacher, self.settings.student
        own, configured = self.settings.sampler, self.settings.sample.sampler
        self.sampler_name = resolve_sampler(configured) if own is None else own.name
        check_parallel(self.settings.sample, self.sampler_name)
        start = student.path or teacher.path
        named = self.settings.sample.counts_of_writers
        others = [name for name in named if name not in WRITERS]
        teaching = _teaching(self.settings.train)
        # All of them, before the first is converted or downloaded.
        for path in filter(None, (start, teacher.path, self.settings.base)):
            check_path(path)
        for path in others:
            check_path(path, WRITERS)
        for path in teaching:
            check_path(path, TEACHERS)
        teacher = _as_stored("teacher", teacher, teacher.path)
        student = _as_stored("student", student, start)
        self.settings = replace(self.settings, teacher=teacher, student=student)
        self.lora = _lora(student)
        self.teacher = _located("teacher", teacher.path, teacher)
        self.start = _located("student", start, student)
        base = self.settings.base
        # Its own template, and the arguments that the student's has: both are asked alike.
        asked_alike = replace(student, chat_template=None)
        self.base = None if base is None else _located("student", base, asked_alike)
        loading = _loading("teacher", teacher)
        self._others = {name: Model.named(name, loading) for name in others}
        reading = replace(teacher, chat_template_kwargs=None)  # it reads what the student's wrote
        self.teaching = {name: _located("teacher", name, reading) for name in teaching}
        name, models = self.sampler_name, [self.start, self.teacher, *filter(None, [self.base])]
        self.sampler_name = served_sampler(configured, name, [*models, *self._others.values()])
        if self.sampler_name != name:
            check_parallel(self.settings.sample, self.sampler_name)

    @property
    def writing_teacher(self) -> Model:
        """Who writes where the teacher does: the served one, where there is one."""
        endpoint = self.settings.sample.endpoint
        if endpoint.model is None:
            return self.teacher
        key = "sample.endpoint.chat_template_kwargs"
        arguments = models.template_arguments(endpoint.chat_template_kwargs, key)
        return ServedModel.of(endpoint.model, endpoint.revision, arguments)

    @property
    def teachers_view(self) -> TeachersView | None:
        """How prompts are put for the teacher alone; None: as for the student."""
        teacher = self.settings.teacher
        return TeachersView.of(teacher.prompt_template, teacher.system_prompt)

    @property
    def writers(self) -> dict[str, Model]:
        """Those of `sample.writers` that are neither the student nor the teacher, by name."""
        return {**self._others, "endpoint": self.writing_teacher}

    @property
    def teacher_tokens(self) -> Model:
        """Whose tokens the teacher's responses have: the student's, of a served teacher."""
        served = isinstance(self.writing_teacher, ServedModel)
        return self.start if served else self.teacher

    def workers(self, gpus_each: int | None = None) -> tuple[int, bool]:
        """How many processes sample or score together, and whether this one does.

        Args:
            gpus_each: That the engine of one takes; None: a sampler's.
        """
        if self.settings.cluster is not None:
            return 1, console.is_main_process()
        gpus = torch.accelerator.device_count()
        return workers(os.environ, gpus, gpus_each or self.gpus_each)

    @property
    def gpus_each(self) -> int:
        """GPUs that a sampler takes, where there are any."""
        sample = self.settings.sample
        return (sample.data_parallel or 1) * sample.tensor_parallel

    def sampled_by(self, model: Model) -> dict[str, Any]:
        """What the identity of responses that a model writes says of the sampler."""
        own, dtype = self.settings.sampler, None
        if self.sampler_name == "vllm":
            dtype = self.settings.sample.vllm.dtype
        elif self.sampler_name == "transformers":
            precision = model.for_sampling.loading.precision
            dtype = None if precision == "float32" else precision
        more = {} if own is None else {"own_sampler": own.identity}
        return {"sampler": self.sampler_name, "dtype": dtype, **more}

    @property
    def trained_in(self) -> dict[str, Any]:
        """What the identity of a student's training says of its precision and its adapters."""
        precision = self.settings.student.precision.name
        if self.lora is not None:
            return {"precision": precision, "lora": self.lora.identity}
        whole = precision == "float32"
        return {"precision": precision} if whole else {"precision": precision, "weights": "float32"}

    def stage(
        self,
        stage: str,
        what: str,
        identity: Mapping[str, Any],
        make: Callable[[Partial], Mapping[str, Any] | None],
        *,
        every_rank: bool = False,
    ) -> Output:
        """The output of a stage, from the store where it is complete, else made now.

        Args:
            stage: The stage's name.
            what: For the person: what is done to what.
            identity: What determines the content, and nothing else.
            make: Writes the output into the partial's folder; returns counts for the manifest.
            every_rank: All processes of a distributed run work on it together.
        """
        built = False

        def build(partial: Partial) -> Mapping[str, Any] | None:
            nonlocal built
            built = True
            console.heading(stage, what)
            with interruptions_kept(), tracked(self.folder, stage):
                return make(partial)

        started = time.monotonic()
        output = self.store.output(stage, identity, build, every_rank=every_rank)
        if built:  # by then nothing of it is held
            release()
        seconds = time.monotonic() - started
        counts = {
            name: value
            for name, value in output.manifest["counts"].items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        making = output.manifest["seconds"]
        versions = output.manifest["versions"]
        record = StageRecord(stage, what, output.key, seconds, making, not built, counts, versions)
        self.records.append(record)
        if built:
            texts = {name: _counted(name, value) for name, value in counts.items() if value}
            on_screen = ", ".join(text for name, text in texts.items() if name not in UNSAID)
            console.result(console.clock(seconds) + (f": {on_screen}" if on_screen else ""))
            console.log(f"  {output.key}: {', '.join(texts.values())}")
        else:
            console.reused(stage, what, output.key)
        return output

    def sampler(self) -> Sampler:
        """The sampler, started when it is first needed; it serves consecutive stages."""
        return self._open(self.sampler_name)

    @property
    def sampler_elsewhere(self) -> tuple[str, dict[str, Any], Sampler | None]:
        """What a replica on another machine opens: the sampler's name and options, or one's own."""
        name, own = self.sampler_name, self.settings.sampler
        return name, {} if own else sampler_options(self.settings.sample, name), own

    def teacher_access(self, writer: Model) -> TeacherAccess:
        """What a scorer may ask of the teacher about responses in the tokens of `writer`."""
        layout = self.settings.train.layout.name
        return TeacherAccess(self.teacher, writer, layout, self.teacher_engine)

    def teacher_engine(self) -> Any:
        """A `VLLMSampler` for the teacher, in its precision; the sampler itself if it fits."""
        return self._open("vllm", dtype=self.settings.teacher.precision.name)

    @property
    def teacher_engine_elsewhere(self) -> dict[str, Any]:
        """What `open_sampler` takes for a `VLLMSampler` of the teacher."""
        return {
            **sampler_options(self.settings.sample, "vllm"),
            "dtype": self.settings.teacher.precision.name,
        }

    def _open(self, name: str, **changed: Any) -> Any:
        own = self.settings.sampler
        is_own = own is not None and own.name == name
        options = {} if is_own else {**sampler_options(self.settings.sample, name), **changed}
        if self._sampler is not None and self._opened != (name, options):
            self.close_sampler()
        if self._sampler is None:
            self._make_room()
            self._sampler = own if is_own else open_sampler(name, **options)
            self._opened = name, options
        return self._sampler

    def close_sampler(self) -> None:
        """Free what the sampler, and models that wait to be read again, hold of an accelerator."""
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None
        self._make_room()

    def hold_models(self, let_go: Callable[[], Any] = lambda: None) -> None:
        """Close the sampler for models that are about to be loaded; what comes next ends them.

        An accelerator has no room for both. A CPU shares its memory among all, so there both stay.

        Args:
            let_go: Drops the models; called before a sampler is opened, or other models are loaded.
                Left out where they are dropped by then.
        """
        if device().type != "cpu":
            self.close_sampler()
            self._letting_go.append(let_go)

    def _make_room(self) -> None:
        for let_go in self._letting_go:
            let_go()
        self._letting_go.clear()
        release()


def _as_stored(role: str, settings: Any, path: str) -> Any:
    """The group of a model with the precision `stored` resolved, for all that is made of it."""
    if settings.precision is not Precision.stored:
        return settings
    stored = Model(path, {}, _loading(role, settings)).stored_precision()
    return replace(settings, precision=Precision[stored])


def _teaching(train: TrainOptions) -> list[str]:
    """The paths among `train.teachers`."""
    named = train.named_teachers.values() if isinstance(train, PPOTrainOptions) else ()
    return [name for name in named if isinstance(name, str) and name not in TEACHERS]


def _lora(student: StudentConfig) -> models.LoRA | None:
    """The adapters that are trained; None where all weights are."""
    lora, quantization = student.lora, student.quantization
    if lora.r is None:
        return None
    return models.LoRA(
        r=lora.r,
        alpha=lora.alpha,
        dropout=lora.dropout,
        target_modules=lora.target_modules,
        quantization=quantization and quantization.name,
    )


def _loading(role: str, settings: TeacherConfig | StudentConfig) -> Loading:
    """How models of a role (`teacher`, `student`) are loaded.

    `student.quantization` is of the weights under adapters while those are trained, see `_lora`.
    """
    quantization = settings.quantization if isinstance(settings, TeacherConfig) else None
    return Loading(
        precision=settings.precision.name,
        quantization=quantization and quantization.name,
        attn_implementation=settings.attn_implementation,
        trust_remote_code=settings.trust_remote_code,
        trust_key=f"{role}.trust_remote_code=true",
    )


def _located(role: str, path: str, settings: TeacherConfig | StudentConfig) -> Model:
    identity = {**models.identity(path), "precision": settings.precision.name}
    if settings.quantization is not None:
        identity["quantization"] = settings.quantization.name
    model = Model(models.locate(path), identity, _loading(role, settings))
    template = settings.chat_template if isinstance(settings, StudentConfig) else None
    key = f"{role}.chat_template_kwargs"
    return models.written_with(model, template, settings.chat_template_kwargs, key)


def _counted(name: str, value: float) -> str:
    """``12 prompts``, ``1 layer``, ``loss 0.2553``."""
    words = IN_WORDS.get(name) or name.replace("_", " ")
    if not isinstance(value, int):
        return f"{words} {value:.4g}"
    one = value == 1 and words.endswith("s") and not words.endswith("ss")
    return f"{value:,} {words.removesuffix('s') if one else words}"
