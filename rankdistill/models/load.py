"""Models as the stages want them: located, in a named precision, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.integrations import deepspeed

from rankdistill.errors import UserError, suggest
from rankdistill.models.locate import first_line, locate

PRECISIONS: dict[str, torch.dtype | str] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "auto": "auto",
}
"""Names of the precisions; `auto` is the one that the model was saved in."""

QUANTIZATIONS = ("int8", "nf4")
"""Names of what bitsandbytes makes of the linear layers' weights while they are loaded."""


def load_model(
    path: str,
    *,
    precision: str = "float32",
    quantization: str | None = None,
    attn_implementation: str = "sdpa",
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A causal language model on the CPU, in evaluation mode; the caller places it (`place`).

    Args:
        path: Bundled model, GGUF file, folder or hub id, see `locate`.
        precision: float32, bfloat16, float16, or auto for the one it was saved in.
        quantization: int8 or nf4, by bitsandbytes. A model that was saved quantised (GPTQ, AWQ, ..)
            is loaded as it is. Both are on the GPU where there is one.
        attn_implementation: transformers' name of the attention function.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        UserError: no such model, precision or quantization, no safetensors weights (nothing is
            unpickled), or transformers cannot build it as asked.
    """
    if precision not in PRECISIONS:
        raise UserError(f"There is no precision '{precision}': {suggest(precision, PRECISIONS)}")
    folder = locate(path)
    more: dict[str, Any] = {}
    if quantization is not None:
        named = stored_precision(folder) if precision == "auto" else precision
        more["quantization_config"] = _bitsandbytes(quantization, PRECISIONS[named])
    if quantization is not None or stored_quantization(folder) is not None:
        more["device_map"] = {"": torch.accelerator.current_accelerator() or "cpu"}
    try:
        with _whole():
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=PRECISIONS[precision],
                attn_implementation=attn_implementation,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                **more,
            )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise UserError(f"The model '{path}' cannot be loaded: {first_line(error)}") from error
    _mend_generation_config(model)
    return model


def _mend_generation_config(model: Any) -> None:
    """Make the generation config one that can be saved, or training ends at its first checkpoint.

    Some published models have a temperature without `do_sample`; transformers loads such a file and
    refuses to save it. How to sample is the sampler's business here.
    """
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    try:
        config.validate(strict=True)
    except ValueError:
        model.generation_config = GenerationConfig(
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )


def place(model: Any, device: torch.device | str) -> Any:
    """The model on `device`; a quantised one stays where it was loaded."""
    return model if getattr(model, "is_quantized", False) else model.to(device)


def stored_precision(path: str) -> str:
    """The precision that a model was saved in; float32 where its configuration names none."""
    dtype = load_config(path).dtype
    return next((name for name, value in PRECISIONS.items() if value == dtype), "float32")


def stored_quantization(path: str) -> str | None:
    """The method that a model was quantised with before it was saved: gptq, awq, ..; None: none."""
    stored: Any = getattr(load_config(path), "quantization_config", None)
    return None if stored is None else str(stored["quant_method"])


def load_config(path: str, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """A model's configuration; no weights are read, or downloaded.

    Raises:
        UserError: no such model, or an architecture that transformers doesn't know.
    """
    folder = locate(path, weights=False)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"The configuration of '{path}' cannot be read: {first_line(error)}"
        ) from error


@contextmanager
def _whole() -> Iterator[None]:
    """Under ZeRO-3, loading without cutting: teachers and references are not trained, so nothing
    would put them together again; what is trained is cut when the Trainer prepares it."""
    config = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config


def _bitsandbytes(name: str, dtype: torch.dtype | str) -> BitsAndBytesConfig:
    if name not in QUANTIZATIONS:
        raise UserError(f"There is no quantization '{name}': {suggest(name, QUANTIZATIONS)}")
    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
