"""A model between stages: where it is, what it is, and how it is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from rankdistill.models.adapters import LoRA, load_trainable
from rankdistill.models.device import device
from rankdistill.models.load import (
    OwnCodeError,
    load_config,
    load_model,
    place,
    stored_precision,
    stored_quantization,
)
from rankdistill.models.locate import identity, locate
from rankdistill.models.template import (
    FILE,
    chat_template,
    template_arguments,
    with_arguments,
    with_chat_template,
)
from rankdistill.models.thoughts import Thoughts, knows_thoughts
from rankdistill.models.tokenizer import conversation_digest, load_tokenizer
from rankdistill.store import Output


@dataclass(frozen=True)
class Loading:
    """How a model is loaded. A model keeps it over all stages that make another one of it."""

    precision: str = "float32"
    """float32, bfloat16, float16, or auto for the one that it was saved in."""
    quantization: str | None = None
    """int8 or nf4, of a model that is not trained; adapters have their own, see `LoRA`."""
    attn_implementation: str = "sdpa"
    """transformers' name of the attention function."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run: its own, its tokenizer's."""
    trust_key: str = "trust_remote_code=true"
    """What is to be set to allow that, for a message."""

    @property
    def options(self) -> dict[str, Any]:
        """What says how the code is loaded, whatever the weights are in: arguments of functions."""
        return {
            "attn_implementation": self.attn_implementation,
            "trust_remote_code": self.trust_remote_code,
        }

    @property
    def for_sampling(self) -> Loading:
        """As a sampler of this process loads a model: not quantised, on a CPU in float32."""
        attention, precision = self.attn_implementation, self.precision
        if device().type == "cpu":  # which is slower in fewer bits
            precision = "float32"
        if precision == "float32" and attention.startswith("flash_attention"):
            attention = "sdpa"  # the other computes in 16 bits only
        return replace(self, precision=precision, quantization=None, attn_implementation=attention)


@dataclass(frozen=True)
class Model:
    """A model between stages; two with the same weights in the same place are equal."""

    path: str
    """What `from_pretrained` takes."""
    identity: Mapping[str, Any]
    """What determines its content; goes into the keys of what is made from it."""
    loading: Loading = field(default_factory=Loading, compare=False)

    @classmethod
    def named(cls, path: str, loading: Loading | None = None) -> Model:
        """The model that a person calls `path`, see `locate`; it is brought here.

        Raises:
            UserError: there is no such model.
        """
        return cls(locate(path), identity(path), loading or Loading())

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return Path(self.path)

    @property
    def for_sampling(self) -> Model:
        """The same, as a sampler of this process loads it."""
        return replace(self, loading=self.loading.for_sampling)

    def load(self) -> PreTrainedModel:
        """The model as it is, frozen and in evaluation mode, on the CPU.

        Raises:
            UserError: as `load_model`.
        """
        how = self.loading
        with self._key_named():
            model = load_model(
                self.path,
                precision=how.precision,
                quantization=how.quantization,
                **how.options,
            )
        return model.eval().requires_grad_(False)

    def load_on_device(self) -> PreTrainedModel:
        """As `load`, on this process's `device()`."""
        return place(self.load(), device())

    def trainable(self, lora: LoRA | None = None, seed: int = 0) -> Any:
        """The model whose weights, or whose new adapters, are about to be trained, on the CPU.

        Args:
            lora: The adapters; None trains all weights.
            seed: Of the adapters' start.

        Raises:
            UserError: as `load_trainable`.
        """
        precision = self.loading.precision
        with self._key_named():
            return load_trainable(
                self.path, precision=precision, lora=lora, seed=seed, **self.loading.options
            )

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer, see `load_tokenizer` for what is set in it and what is refused."""
        with self._key_named():
            return load_tokenizer(self.path, trust_remote_code=self.loading.trust_remote_code)

    @property
    def tokenizer_identity(self) -> dict[str, str]:
        """What its tokens of a conversation depend on: equal for all models of one tokenizer."""
        trusted = self.loading.trust_remote_code
        with self._key_named():
            return {"digest": conversation_digest(self.path, trust_remote_code=trusted)}

    @property
    def thoughts_identity(self) -> dict[str, Any]:
        """What an output of its responses depends on besides the model, see `Thoughts.identity`."""
        files = [self.folder / name for name in (FILE, "tokenizer_config.json")]
        texts = (file.read_text(encoding="utf-8") for file in files if file.is_file())
        return Thoughts.of(self.tokenizer()).identity if any(map(knows_thoughts, texts)) else {}

    def config(self) -> PretrainedConfig:
        """Its configuration. UserError: as `load_config`."""
        with self._key_named():
            return load_config(self.path, trust_remote_code=self.loading.trust_remote_code)

    def stored_precision(self) -> str:
        """The precision that it was saved in; float32 where its configuration names none."""
        return stored_precision(self.config())

    def stored_quantization(self) -> str | None:
        """The method that it was quantised with before it was saved: gptq, awq, ..; None: none."""
        return stored_quantization(self.config())

    @contextmanager
    def _key_named(self) -> Iterator[None]:
        """A refusal of the model's own code names the key that would allow it."""
        try:
            yield
        except OwnCodeError as error:
            raise OwnCodeError(error.path, self.loading.trust_key) from error


@dataclass(frozen=True)
class ServedModel(Model):
    """A model behind an API: it writes text, and nobody here knows its tokens.

    Its path is its name. It is the same wherever it is served.
    """

    @classmethod
    def of(cls, name: str, revision: str | None, template_arguments: Any = None) -> ServedModel:
        """The model that a server calls `name`.

        Args:
            revision: What tells it apart from others that were served under that name.
            template_arguments: By name; None or {}: none.
        """
        identity: dict[str, Any] = {"served": name, "revision": revision}
        if template_arguments:
            identity["chat_template_kwargs"] = template_arguments
        return cls(name, identity)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Not to be had: `recoded` makes tokens of what it writes."""
        raise TypeError(f"'{self.path}' is served: its tokenizer is not here")


def written_with(model: Model, template: str | None, arguments: Any, key: str) -> Model:
    """The model with another chat template, or with arguments of its own.

    Args:
        template: A shipped name or a file, see `chat_template`; None is the model's own.
        arguments: By name, see `template_arguments`.
        key: Of the arguments in the configuration, for a message.

    Raises:
        UserError: there is no such template, or it does not read an argument.
    """
    given = template_arguments(arguments, key)
    if template is None and not given:
        return model
    identity = dict(model.identity)
    own = template is None
    text = str(model.tokenizer().get_chat_template()) if own else chat_template(template)
    if not own:
        identity["chat_template"] = hashlib.sha256(text.encode()).hexdigest()
    if given:
        identity["chat_template_kwargs"] = given
        text = with_arguments(text, given, f"'{model.path}' ({key})")
    return replace(model, path=with_chat_template(model.path, text), identity=identity)


def model_of(output: Output, loading: Loading) -> Model:
    """The model that a stage's output holds.

    Args:
        loading: Of the model that it was made of.
    """
    return Model(str(output.path / "model"), {"output": output.key}, loading)
