"""Models as the stages want them: located, in a named precision, in evaluation mode."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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

from rankdistill.errors import UserError, first_line, suggest
from rankdistill.models.device import device
from rankdistill.models.locate import locate
from rankdistill.store.inputs import check_unchanged

PRECISIONS: dict[str, torch.dtype | str] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "auto": "auto",
}
"""Names of the precisions; `auto` is the one that the model was saved in."""

QUANTIZATIONS = ("int8", "nf4")
"""Names of what bitsandbytes makes of the linear layers' weights while they are loaded."""


class OwnCodeError(UserError):
    """A model comes with code of its own, and nobody has said that it may run.

    Args:
        path: What `from_pretrained` would take.
        remedy: What is to be set to allow it.
    """

    def __init__(self, path: str, remedy: str = "trust_remote_code=true") -> None:
        super().__init__(
            f"The model '{path}' comes with code of its own: read it, and set {remedy} to have it "
            "run here."
        )
        self.path = path


def refusal(path: str, what: str, error: Exception) -> UserError:
    """What transformers says of a model, as a sentence of ours: ``<what>: <its first line>``."""
    if "trust_remote_code=True" in str(error):
        return OwnCodeError(path)
    said = first_line(error)
    if isinstance(error, (LookupError, TypeError, AttributeError)):  # a name alone says little
        said = f"{type(error).__name__}: {said}"
    return UserError(f"{what}: {said}")


def from_pretrained(
    auto: Any, path: str, what: str, *, new: str | None = None, **options: Any
) -> Any:
    """What a class of transformers makes of a model whose files hold all its weights.

    transformers draws at random what the files lack.

    Args:
        auto: `AutoModelForCausalLM` or the like.
        path: See `locate`.
        what: How the sentence begins that refuses it: ``The model '<path>' cannot be loaded``.
        new: A pattern of the names of tensors that may be missing; None lets no one be.
        options: Further ones of `auto.from_pretrained`.

    Raises:
        UserError: the model cannot be built, lacks tensors, or holds NaN.
    """
    folder = locate(path)
    try:
        if options.get("attn_implementation") == "sdpa" and not _has_sdpa(auto, folder, options):
            options["attn_implementation"] = "eager"
        model, found = auto.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
    except Exception as error:  # a damaged file raises whatever its first odd value leads to
        raise refusal(path, what, error) from error
    check_unchanged()  # what was loaded is what the keys say
    missing = sorted(
        name for name in found["missing_keys"] if new is None or not re.match(new, name)
    )
    if missing:
        raise UserError(
            f"{what}: {_listed(missing)} not in its files and would be random numbers; save or "
            "download the model again."
        )
    odd = [name for name, weight in model.named_parameters() if not _is_finite(weight)]
    if odd:
        raise UserError(
            f"{what}: {_listed(odd)} not finite (NaN or infinite); take a model that was saved "
            "before its training diverged, or download it again."
        )
    return model


def _has_sdpa(auto: Any, folder: str, options: Mapping[str, Any]) -> bool:
    """Whether the architecture has PyTorch's attention: gpt-oss has not, and from transformers 5.24
    on Gemma 2 has not. Of code that comes with a model transformers says so itself."""
    code = options.get("trust_remote_code", False)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=code)
    return getattr(auto._model_mapping.get(type(config), None), "_supports_sdpa", True)


def _listed(names: Sequence[str]) -> str:
    """``3 tensors (a, b, ..) are``"""
    shown = ", ".join(names[:2]) + (", .." if len(names) > 2 else "")
    return f"the tensor {shown} is" if len(names) == 1 else f"{len(names)} tensors ({shown}) are"


def _is_finite(weight: torch.Tensor) -> bool:
    """One pass without a copy; what quantisation made of a weight has no such numbers."""
    if weight.dtype not in PRECISIONS.values() or weight.is_meta or not weight.numel():
        return True
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(weight))


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
        attn_implementation: transformers' name of the attention function; sdpa is eager where an
            architecture has none.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        UserError: no such model, precision or quantization, no safetensors weights (nothing is
            unpickled) or not all of them, code that may not run, an encoder, or transformers cannot
            build it as asked.
    """
    if precision not in PRECISIONS:
        raise UserError(f"There is no precision '{precision}': {suggest(precision, PRECISIONS)}")
    config = load_config(locate(path), trust_remote_code=trust_remote_code)
    more: dict[str, Any] = {}
    if quantization is not None:
        named = stored_precision(config) if precision == "auto" else precision
        more["quantization_config"] = _bitsandbytes(quantization, PRECISIONS[named])
    if quantization is not None or stored_quantization(config) is not None:
        more["device_map"] = {"": device()}
    with _whole():
        model = from_pretrained(
            AutoModelForCausalLM,
            path,
            f"The model '{path}' cannot be loaded",
            dtype=PRECISIONS[precision],
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            **more,
        )
    _check_causal(path, model)
    _mend_generation_config(model)
    return model


def check_causal(path: str, config: PretrainedConfig, *, trust_remote_code: bool = False) -> None:
    """UserError for an encoder, as BERT is; no weights are read."""
    # Few configurations say so; what their architecture makes of it is in its layers.
    if getattr(config, "is_decoder", None) is False:
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        _check_causal(path, empty)


def _check_causal(path: str, model: Any) -> None:
    causal = {module.is_causal for module in model.modules() if hasattr(module, "is_causal")}
    if causal == {False}:
        raise UserError(
            f"The model '{path}' is an encoder ({type(model).__name__}), whose tokens see those "
            "behind them, so it writes no responses: take a causal language model."
        )


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


def stored_precision(config: PretrainedConfig) -> str:
    """The precision that a model was saved in; float32 where its configuration names none."""
    return next((name for name, value in PRECISIONS.items() if value == config.dtype), "float32")


def stored_quantization(config: PretrainedConfig) -> str | None:
    """The method that a model was quantised with before it was saved: gptq, awq, ..; None: none."""
    stored: Any = getattr(config, "quantization_config", None)
    return None if stored is None else str(stored["quant_method"])


def load_config(path: str, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """A model's configuration; no weights are read, or downloaded.

    Raises:
        UserError: no such model, an architecture that transformers doesn't know, or code that may
            not run.
    """
    folder = locate(path, weights=False)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # as in `from_pretrained`
        raise refusal(path, f"The configuration of '{path}' cannot be read", error) from error


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
