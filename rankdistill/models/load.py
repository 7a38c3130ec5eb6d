"""Models as the stages want them: located, in a named precision, in evaluation mode."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from rankdistill.errors import UserError, suggest
from rankdistill.models.locate import first_line, locate

PRECISIONS: dict[str, torch.dtype | str] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "auto": "auto",
}
"""Names of the precisions; `auto` is the one that the model was saved in."""


def load_model(
    path: str,
    *,
    precision: str = "float32",
    attn_implementation: str = "sdpa",
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A causal language model on the CPU, in evaluation mode; the caller places it.

    Args:
        path: Bundled model, GGUF file, folder or hub id, see `locate`.
        precision: float32, bfloat16, float16, or auto for the one it was saved in.
        attn_implementation: transformers' name of the attention function.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        UserError: no such model or precision, no safetensors weights (nothing is unpickled), or
            transformers cannot build it as asked.
    """
    if precision not in PRECISIONS:
        raise UserError(f"There is no precision '{precision}': {suggest(precision, PRECISIONS)}")
    folder = locate(path)
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=PRECISIONS[precision],
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"The model '{path}' cannot be loaded: {first_line(error)}") from error
