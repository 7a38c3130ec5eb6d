"""The export of a run: a folder that the hub, vLLM and a deployment platform take as it is."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rankdistill.errors import UserError, suggest
from rankdistill.export.calibration import check_calibration, write_calibration
from rankdistill.export.card import model_card
from rankdistill.export.deployment import write_deployment
from rankdistill.export.license import License, license_of
from rankdistill.export.place import check_place, clear_place, remove_leftovers
from rankdistill.export.record import (
    is_current,
    read_record,
    record_of,
    write_maker,
    write_record,
)
from rankdistill.export.source import EXPORT, Source
from rankdistill.export.weights import check_int8, write_int8, write_model
from rankdistill.models.files import new_folder
from rankdistill.models.load import PRECISIONS
from rankdistill.store.faults import writing

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

    An earlier export there is replaced when the new one is complete.

    Args:
        source: See `open_source`.
        to: New, empty, or an earlier export with nothing of yours in it.

    Raises:
        UserError: as `check_export` and `write_model`.
    """
    options = options or ExportOptions()
    check_export(source, to, options)
    remove_leftovers(to)
    license = _license(source)
    remedy = "make it writable or make space, or give another --to"
    with writing(to, remedy), new_folder(to) as partial:
        write_maker(partial)
        _fill(partial, source, license, options)
        record = record_of(source, options.precision, options.quantize)
        clear_place(to)
        # Last, in the place of the maker's: until here a kill leaves what is told to be a leftover.
        write_record(partial, record)
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
    card.save(partial / "README.md")
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
