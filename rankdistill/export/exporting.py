"""The export of a run: a folder that the hub, vLLM and a deployment platform take as it is.

Its files serve it elsewhere: Inferless, Docker, Compose, Kubernetes; all with vLLM.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from rich.markup import escape
from transformers import AutoModelForCausalLM

from rankdistill.console import say
from rankdistill.errors import UserError, first_line, suggest
from rankdistill.export.card import model_card
from rankdistill.export.hub import License, license_of
from rankdistill.export.place import (
    WRITTEN,
    check_place,
    clear_place,
    in_making,
    is_current,
    keep_edited,
    read_record,
    record_of,
    write_record,
)
from rankdistill.export.source import EXPORT, Source
from rankdistill.models import Model, merged, save_model
from rankdistill.models.load import PRECISIONS, OwnCodeError
from rankdistill.rank.existing import load_groups
from rankdistill.report.rendering import environment
from rankdistill.store.files import link
from rankdistill.store.manifest import versions


def check_int8() -> None:
    """UserError where torchao, which makes the 8 bits, is not installed."""
    if find_spec("torchao") is None:
        raise UserError(
            "--quantize int8 needs torchao: `pip install 'rankdistill[torchao]'` brings it."
        )


def write_model(source: Source, to: Path, precision: str = "auto") -> None:
    """Writes the model to the folder `to`, adapters merged.

    The model of a run is taken as it is: `save_model` wrote it. Its weights become links, its other
    files copies, since a model card that is written into a link would be written into the run too.
    Any other model goes through `save_model` now, which sets the tokens that end and pad. A tied
    head is left out of the file, as the model's configuration says.

    Args:
        precision: float32, bfloat16, float16, or auto for the one that it is in.

    Raises:
        UserError: the model cannot be loaded, or its adapters' base is gone.
    """
    if source.metrics is not None and not source.is_adapter and precision == "auto":
        for file in source.model.iterdir():
            take = link if file.suffix == ".safetensors" else shutil.copyfile
            take(file, to / file.name)
        return
    if not source.is_adapter:
        own = Model(str(source.model), {}, source.loading(precision))
        model, tokenizer = own.load(), own.tokenizer()
    else:
        model, tokenizer = _merged(source, precision)
    save_model(model, tokenizer, to)


def write_int8(source: Source, folder: Path, to: Path) -> None:
    """Writes the model in `folder` with its linear layers' weights in 8 bits, by torchao.

    One scale per row of the weight, activations as they were; neither embedding nor head.
    transformers and vLLM read it where torchao is installed.

    Args:
        source: What the model in `folder` was made of.

    Raises:
        UserError: the model cannot be quantised.
    """
    from torchao.quantization import Int8WeightOnlyConfig  # type: ignore[import-not-found]
    from transformers import TorchAoConfig

    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto",
            use_safetensors=True,
            device_map={"": "cpu"},
            trust_remote_code=source.loading("auto").trust_remote_code,
            quantization_config=TorchAoConfig(Int8WeightOnlyConfig()),
        )
    except (ValueError, ImportError, RuntimeError) as error:
        raise UserError(f"torchao cannot quantise this model: {first_line(error)}") from error
    save_model(model, Model(str(folder), {}, source.loading("auto")).tokenizer(), to)


def _merged(source: Source, precision: str) -> tuple[Any, Any]:
    """The model of adapters and their base, and the base's tokenizer."""
    base = str(PeftConfig.from_pretrained(str(source.model)).base_model_name_or_path)
    whole = Model(base, {}, source.loading(precision))
    try:
        model = whole.load()
    except OwnCodeError:
        raise
    except UserError as error:
        raise UserError(
            f"The adapters in '{source.folder}' were trained on '{base}', which is gone: put the "
            "model back there, or write its place into adapter_config.json."
        ) from error
    return merged(PeftModel.from_pretrained(model, str(source.model))), whole.tokenizer()


QUANTIZE = ("none", "int8", "awq-ready")


@dataclass(frozen=True)
class ExportOptions:
    """How a model is exported.

    Args:
        precision: float32, bfloat16, float16, or auto for the one that it was trained in.
        quantize: none; int8 (torchao, weights of linear layers); awq-ready (unquantised, with the
            script and the texts that make AWQ weights of it).
        repository: The hub repository that it is going to be pushed to.
    """

    precision: str = "auto"
    quantize: str = "none"
    repository: str | None = None


def check_export(source: Source, to: Path, options: ExportOptions) -> None:
    """Refuse, before anything is loaded, what cannot be exported.

    Raises:
        UserError: an unknown option, a missing package or calibration text, a folder that holds
            something else than an export, or something besides.
    """
    for name, value, known in (
        ("precision", options.precision, list(PRECISIONS)),
        ("quantize", options.quantize, QUANTIZE),
    ):
        if value not in known:
            raise UserError(f"There is no --{name} '{value}': {suggest(value, known)}")
    if options.quantize == "int8":
        check_int8()
    if options.quantize == "awq-ready":
        check_calibration(source)
    check_place(to)


def export(source: Source, to: Path, options: ExportOptions | None = None) -> Path:
    """Writes weights, tokenizer, license, model card and deployment files; returns the folder.

    An earlier export there is replaced when the new one is complete, but for the card and the
    deployment files that a person has edited.

    Args:
        source: See `open_source`.
        to: New, empty, or an earlier export with nothing of yours in it.

    Raises:
        UserError: as `check_export` and `write_model`.
    """
    options = options or ExportOptions()
    check_export(source, to, options)
    license = _license(source)
    with in_making(to) as partial:
        _fill(partial, source, license, options)
        record = record_of(source, options.precision, options.quantize)
        written, kept = keep_edited(to, partial, (CARD, *FILES))
        clear_place(to)
        # Last, in the place of the maker's: until here a kill leaves what is told to be a leftover.
        write_record(partial, {**record, WRITTEN: written})
    for name in kept:
        say(f"{escape(str(to / name))} was edited and stays: move it away to get the new one.")
    return to


def _fill(partial: Path, source: Source, license: License, options: ExportOptions) -> None:
    """Writes all files of an export but its record."""
    int8 = options.quantize == "int8"
    if int8:
        plain = partial / "plain"
        plain.mkdir()
        write_model(source, plain, options.precision)
        write_int8(source, plain, partial)
        shutil.rmtree(plain)
    else:
        write_model(source, partial, options.precision)
    for name, text in license.texts.items():
        (partial / name).write_text(text, encoding="utf-8")
    name = options.repository or source.name
    card = model_card(source, license, name, options.quantize)
    card.save(partial / CARD)
    write_deployment(source, partial, options.repository, int8)
    if options.quantize == "awq-ready":
        write_calibration(source, partial)


def current_export(source: Source) -> Path:
    """The folder that is served: the run's export, made now where it is missing or outdated.

    A plain model folder is served as it is; what adapters and their base make is kept beside them.

    Raises:
        UserError: as `export`.
    """
    if source.metrics is None and not source.is_adapter:
        return source.model
    to = source.folder / EXPORT
    record = read_record(to)
    if record is not None and is_current(record, source):
        return to
    return export(source, to)


def _license(source: Source) -> License:
    if source.config is None:
        return License(None)
    student, teacher = source.config["student"], source.config["teacher"]
    return license_of(student.get("path") or teacher["path"])


CARD = "README.md"
FILES = (
    "app.py",
    "inferless-runtime-config.yaml",
    "Dockerfile",
    "docker-compose.yaml",
    "kubernetes.yaml",
)
VLLM = "0.31.0"
"""Deployed where none is installed here."""
INFERLESS = "0.2.15"
"""Of the package with the decorators of `app.py`."""


def write_deployment(source: Source, to: Path, repository: str | None, int8: bool) -> None:
    """Writes the files beside the weights.

    Args:
        to: The export's folder.
        repository: Of the hub, where the weights are pushed; Inferless then loads them from there.
        int8: Whether the weights need torchao.
    """
    sampling: Mapping[str, Any] = (source.config or {}).get("sample") or {}
    vllm = versions().get("vllm", VLLM).partition("+")[0]
    torchao = [f"torchao=={_installed('torchao')}"] if int8 else []
    for file in FILES:
        write_template(
            file,
            to,
            name=source.name,
            repository=repository,
            temperature=float(sampling.get("temperature", 1.0)),
            top_p=float(sampling.get("top_p", 1.0)),
            top_k=int(sampling.get("top_k", 0)),
            vllm=vllm,
            inferless=INFERLESS,
            packages=[f"vllm=={vllm}", *torchao],
            torchao="".join(torchao),
        )


def write_template(file: str, to: Path, **values: Any) -> None:
    """Fills in the template of one file."""
    templates = environment("rankdistill.export", escape=False, last_newline=True)
    text = templates.get_template(f"{file}.j2").render(**values)
    (to / file).write_text(text, encoding="utf-8")


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # on the path, without metadata
        return __import__(package).__version__


ROWS = 256


def check_calibration(source: Source) -> None:
    """UserError where there are no texts to calibrate on."""
    if not (source.folder / "ranked").is_dir():
        raise UserError(
            f"--quantize awq-ready takes its texts from ranked/, which '{source.folder}' has not: "
            "give a run that ranks responses."
        )


def write_calibration(source: Source, to: Path) -> None:
    """Writes `calibration.jsonl`, conversations with their best response, and `quantize_awq.py`."""
    rows = []
    for group in load_groups(source.folder):
        best = min(group["responses"], key=lambda response: response.get("rank") or 0)
        answer = {"role": "assistant", "content": best["text"]}
        rows.append({"messages": [*map(dict, group["messages"]), answer]})
        if len(rows) == ROWS:
            break
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (to / "calibration.jsonl").write_text(lines, encoding="utf-8", errors="replace")
    write_template("quantize_awq.py", to)
