"""The exported model: whole, plain, in safetensors, as transformers and vLLM read it."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM

from rankdistill.errors import UserError, first_line
from rankdistill.export.source import Source
from rankdistill.models import Model, merged, save_model
from rankdistill.models.load import OwnCodeError
from rankdistill.store.files import link


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
