"""What a run asks of its models that this machine cannot do, said before anything is computed."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM
from transformers.quantizers.auto import AutoHfQuantizer

from rankdistill.errors import UserError, first_line
from rankdistill.models.adapters import ALL_LINEAR, LoRA
from rankdistill.models.load import check_causal
from rankdistill.models.model import Model


def check_loading(role: str, model: Model, settings: Any) -> None:
    """Refuse a model that could not be loaded as its group (`role`) of the configuration says.

    Args:
        role: `teacher` or `student`.
        settings: The group: its precision is resolved, not `auto`.

    Raises:
        UserError: damaged files, an encoder, quantised weights or an attention that needs a GPU or
            a package that isn't there, or code of the model's own that may not run.
    """
    _check_files(role, model)
    config = model.config()
    check_causal(model.path, config, trust_remote_code=model.loading.trust_remote_code)
    _check_attention(role, settings.attn_implementation, settings.precision.name)
    if settings.quantization is not None:
        _check_bitsandbytes(f"{role}.quantization={settings.quantization.name}")
    if model.stored_quantization() is not None:
        _check_stored(role, model)


def check_trainable(model: Model, settings: Any, lora: LoRA | None) -> None:
    """Refuse a student that could not be trained as `student` says.

    Raises:
        UserError: weights that are quantised and have no adapters, or were saved quantised;
            float16 without a GPU; adapters on layers that the model doesn't have; Liger's kernels
            where they cannot run; another precision than accelerate was launched with.
    """
    method = model.stored_quantization()
    if method is not None:
        raise UserError(
            f"The student would start from weights that were saved quantised ({method}), which "
            "cannot be trained: set student.path to the model before it was quantised."
        )
    if settings.quantization is not None and lora is None:
        raise UserError(
            f"student.quantization={settings.quantization.name} freezes the weights, so there is "
            "nothing to train: give student.lora.r as well, for example 16."
        )
    precision = settings.precision.name
    if precision == "float16" and not torch.accelerator.is_available():
        raise UserError(
            "student.precision=float16 trains on a GPU only: set it to float32 or bfloat16."
        )
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", {"bfloat16": "bf16", "float16": "fp16"}.get(precision)):
        raise UserError(
            f"accelerate was launched with mixed_precision={launched}, and student.precision is "
            f"{precision}: launch with mixed_precision=no, which leaves it to student.precision."
        )
    if settings.use_liger_kernel:
        _check_liger()
    if lora is not None and lora.target_modules != ALL_LINEAR:
        trusted = model.loading.trust_remote_code
        with torch.device("meta"):
            lora.on(AutoModelForCausalLM.from_config(model.config(), trust_remote_code=trusted))


def _check_files(role: str, model: Model) -> None:
    """Reads the headers of the weights, which say how long the files must be."""
    for file in sorted(model.folder.glob("*.safetensors")):
        if file.exists() and not os.access(file, os.R_OK):  # safetensors says that it is not there
            raise UserError(
                f"The {role}'s file '{file}' can't be read by this user: get access to it, or a "
                "copy of the model."
            )
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"The {role}'s file '{file}' is damaged ({first_line(error)[:-1]}): copy or "
                "download the model again."
            ) from error


def _check_attention(role: str, name: str, precision: str) -> None:
    if not name.startswith("flash_attention"):
        return
    if not torch.accelerator.is_available():
        raise UserError(
            f"{role}.attn_implementation={name} runs on a GPU only, and there is none: set it to "
            "sdpa."
        )
    if precision == "float32":
        raise UserError(
            f"{role}.attn_implementation={name} computes in bfloat16 or float16 only: set "
            f"{role}.precision to one of them, or the attention to sdpa."
        )


def _check_bitsandbytes(asked: str) -> None:
    if not torch.accelerator.is_available():
        raise UserError(
            f"{asked} needs bitsandbytes on a GPU, and there is none: leave it at null here."
        )
    if find_spec("bitsandbytes") is None:
        raise UserError(
            f"{asked} needs bitsandbytes: `pip install 'rankdistill[bitsandbytes]'` brings it."
        )


def _check_stored(role: str, model: Model) -> None:
    config = model.config()
    try:
        quantizer = AutoHfQuantizer.from_config(config.quantization_config, pre_quantized=True)
        quantizer.validate_environment(device_map=None)
    except (ImportError, RuntimeError, ValueError) as error:
        method = model.stored_quantization()
        remedy = "" if torch.accelerator.is_available() else " (this machine has no GPU)"
        raise UserError(
            f"The {role} was saved quantised ({method}), and cannot be loaded here{remedy}: "
            f"{first_line(error)}"
        ) from error


def _check_liger() -> None:
    if not torch.cuda.is_available():
        raise UserError(
            "student.use_liger_kernel needs Triton on a GPU, and there is none: set it to false."
        )
    if find_spec("liger_kernel") is None:
        raise UserError(
            "student.use_liger_kernel needs liger-kernel: `pip install 'rankdistill[liger]'` "
            "brings it."
        )
