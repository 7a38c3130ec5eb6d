"""A sequence-classification reward model as a scorer: any of the hub, or one trained here.

transformers pools the right-most token that is not padding, by its id: with a padding token that
equals EOS it pools before the end of the turn (transformers #35352). Here the logits of every
position are read, and the one of the last real token, by the length, is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rankdistill import models
from rankdistill.errors import UserError
from rankdistill.fields import identity_of
from rankdistill.models import (
    Loading,
    Model,
    device,
    encode_answers,
    encode_conversation,
    locate,
    written_with,
)
from rankdistill.models.load import PRECISIONS, from_pretrained
from rankdistill.rows import Group, Message
from rankdistill.score.schema import RewardModelOptions
from rankdistill.score.scorer import Scorer, TeacherAccess, Verdict
from rankdistill.train.reward.model import SHIFT, shift_of


@dataclass(frozen=True)
class RewardModel(RewardModelOptions, Scorer):
    """Its logit for the conversation with the response, by its own chat template.

    A model that was trained here has its shift added, and reads the response up to EOS, as it was
    trained; any other reads what its template writes. A conversation of more than `max_tokens` has
    no value. The keys are explained in `conf/score/reward_model.yaml`.

    Raises:
        UserError: no such model, more labels than one, or no chat template.
    """

    name: ClassVar[str] = "reward_model"

    @property
    def on_this_machine(self) -> bool:
        """Whether it needs the memory that a sampler's engine takes."""
        return device().type != "cpu"

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "scorer": self.name,
            "code": 1,
            **identity_of(self, instead=("model",)),
            "model": models.identity(self.model),
        }

    @property
    def reads_thoughts(self) -> bool:
        """Whether it was trained here, on responses with what they thought."""
        return hasattr(self._named.config(), SHIFT)

    def about(self, teacher: str) -> str:
        return f"{self.name} under {self.model}"

    def check(self, access: TeacherAccess) -> None:
        """Refuse a model with more than one label, or without a chat template."""
        config = self._named.config()
        if config.num_labels != 1:
            raise UserError(
                f"The model '{self.model}' (score.model) has {config.num_labels} labels, and a "
                "reward is one number: take a reward model with a single label."
            )
        self._named.tokenizer()

    def check_conversations(
        self, conversations: Sequence[list[Message]], access: TeacherAccess
    ) -> None:
        """Refuse conversations that its template refuses, before a response is sampled."""
        tokenizer = self._named.tokenizer()
        for conversation in conversations:
            encode_conversation(tokenizer, [*conversation, {"role": "assistant", "content": "Yes"}])

    def __call__(
        self, groups: Sequence[Group], access: TeacherAccess, done: int = 0
    ) -> Iterator[list[Verdict]]:
        """The verdicts of one group after the other; see `Scorer`."""
        self.check(access)
        model, tokenizer = self._load(), self._named.tokenizer()
        with _EveryPosition(model) as logits_of:
            for group in groups[done:]:
                ids = [self._encode(model, tokenizer, group, r["text"]) for r in group["responses"]]
                values = [math.nan] * len(ids)
                fitting = [i for i in range(len(ids)) if len(ids[i]) <= self.max_tokens]
                for part in self._batches(fitting, ids):
                    rewards = logits_of([ids[i] for i in part])
                    for i, reward in zip(part, rewards, strict=True):
                        values[i] = reward + shift_of(model)
                too_long = len(ids) - len(fitting)
                yield [Verdict(values, counts={"too_long": too_long} if too_long else {})]

    def _encode(self, model: Any, tokenizer: Any, group: Group, text: str) -> list[int]:
        if hasattr(model.config, SHIFT):
            prompt, [answer] = encode_answers(tokenizer, group["messages"], [text])
            return prompt + answer
        conversation = [*group["messages"], {"role": "assistant", "content": text}]
        return encode_conversation(tokenizer, conversation)

    def _batches(self, which: list[int], ids: Sequence[list[int]]) -> Iterator[list[int]]:
        """Responses of similar length, at most `max_batch_tokens` with padding."""
        part: list[int] = []
        for i in sorted(which, key=lambda i: len(ids[i])):
            if part and (len(part) + 1) * len(ids[i]) > self.max_batch_tokens:
                yield part
                part = []
            part.append(i)
        if part:
            yield part

    def _load(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        model = from_pretrained(
            AutoModelForSequenceClassification,
            self.model,
            f"The reward model '{self.model}' cannot be loaded",
            dtype=PRECISIONS[self.precision],
            **self._named.loading.options,
        )
        return model.to(device()).eval()

    @property
    def _named(self) -> Model:
        """The model by its name, before its weights are here."""
        loading = Loading(
            precision=self.precision,
            attn_implementation=self.attn_implementation,
            trust_remote_code=self.trust_remote_code,
            trust_key="score.trust_remote_code=true",
        )
        if not self.chat_template_kwargs:
            return Model(self.model, {}, loading)
        model, key = Model(locate(self.model), {}, loading), "score.chat_template_kwargs"
        return written_with(model, None, self.chat_template_kwargs, key)


class _EveryPosition:
    """Context in which a model's logit at the last real token can be read.

    Encoders, which have no linear layer `score` over all positions, classify by a token of their
    own choice; that logit is taken as it is.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._logits, self._hook = model, None, None
        if isinstance(getattr(model, "score", None), torch.nn.Linear):
            self._hook = model.score.register_forward_hook(self._keep)

    def __enter__(self) -> Any:
        return self._rewards

    def __exit__(self, *_: Any) -> None:
        if self._hook is not None:
            self._hook.remove()

    def _keep(self, module: Any, inputs: Any, logits: torch.Tensor) -> None:
        self._logits = logits

    @torch.no_grad()
    def _rewards(self, ids: Sequence[list[int]]) -> list[float]:
        """One per sequence; padded on the right, where causal models do not look."""
        longest = max(map(len, ids))
        # Any token pads: the mask says what is real. transformers looks for padding by its id,
        # refuses a batch without such an id, and its own pooling is not used.
        filler = self._model.config.get_text_config().pad_token_id or 0
        tokens = torch.tensor([row + [filler] * (longest - len(row)) for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
        where = self._model.device
        if self._hook is not None and self._model.config.pad_token_id is None:
            self._model.config.pad_token_id = filler
        output = self._model(tokens.to(where), attention_mask=mask.to(where))
        if self._logits is None or self._logits.ndim != 3:
            return output.logits.float().squeeze(-1).tolist()
        rows = torch.arange(len(ids), device=where)
        last = mask.sum(1).to(where) - 1
        return self._logits[rows, last].float().squeeze(-1).tolist()
