"""What is benchmarked: the model, how often, and at which sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rankdistill.errors import UserError

if TYPE_CHECKING:
    from rankdistill.forward import TokenGroup

BUNDLED = "bundled/smollm2-135m-instruct"
TINY = "tiny"
TINY_SHARE = 16
"""The tiny model gets prompts and responses that are shorter by this factor."""


@dataclass(frozen=True)
class Point:
    """K responses of R tokens each to one prompt of P tokens."""

    K: int
    P: int
    R: int

    def __str__(self) -> str:
        return f"K={self.K} P={self.P} R={self.R}"


@dataclass(frozen=True)
class BenchSettings:
    """Of a whole call.

    Args:
        model: What `rankdistill.models.load_model` takes, or `tiny` for a random model at sizes
            that take no time: everything runs, and the figures mean nothing.
        rounds: How often every way is measured, at least 1; what takes minutes is measured half as
            often.

    Raises:
        UserError: `rounds` below 1.
    """

    model: str = BUNDLED
    rounds: int = 4

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UserError(f"--rounds is {self.rounds}; it must be at least 1.")

    def at(self, K: int, P: int, R: int) -> Point:
        """A point, smaller for the tiny model."""
        share = TINY_SHARE if self.model == TINY else 1
        return Point(K, P // share, R // share)

    def load(self) -> tuple[Any, Any]:
        """Model in float32, on the accelerator where there is one, and tokenizer.

        Each benchmark has its own, since it changes it.
        """
        if self.model == TINY:
            return _tiny()
        from rankdistill.models import device, load_model, load_tokenizer

        return load_model(self.model).to(device()), load_tokenizer(self.model)  # type: ignore[arg-type]


def random_group(point: Point, model: Any) -> TokenGroup:
    """A prompt and its responses of random tokens, the same at every call."""
    import torch

    from rankdistill.forward import TokenGroup

    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    needed = point.P + point.R
    if positions is not None and needed > positions:
        raise UserError(
            f"The model has {positions} positions and the benchmark needs {needed}: choose another "
            "with --model."
        )
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(3, config.vocab_size, (count,), generator=generator).tolist()

    return TokenGroup(tokens(point.P), [tokens(point.R) for _ in range(point.K)])


def _tiny() -> tuple[Any, Any]:
    """A random Llama of 2 layers, and a tokenizer of as many words as it has ids."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(i): i for i in range(256)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="2")
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval(), tokenizer
