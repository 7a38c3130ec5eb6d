"""Sampling with transformers: every prompt is computed once, its cache serves its K responses.

`generate(num_return_sequences=K)` computes the prompt K times. Here the prompts of a batch go
through the model once, the cache is repeated K times, and rows that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rankdistill.errors import UserError
from rankdistill.models.model import Loading, Model
from rankdistill.models.thoughts import Thoughts
from rankdistill.rows import Response
from rankdistill.sample.model_folder import check_positions, contents, stop_ids, to_response
from rankdistill.sample.sampler import Request, Sampler, SamplingOptions, response_seed


class TransformersSampler(Sampler):
    """Samples in this process: on the accelerator in the model's precision, on a CPU in float32.

    Batches are cut from the requests in their order and sampled one after the other, so a caller
    that is interrupted loses at most a batch. What else is in a batch, its size and the number of
    threads change the rounding of the logits, and with it a token where two of them all but tie in
    the draw, about one in 100,000. The same requests in the same order on the same machine give the
    same tokens, also after an interruption, see `done` of `Sampler.sample`.

    Args:
        batch_size: Most responses that are decoded at once.

    Raises:
        UserError: `batch_size` below 1.
    """

    name = "transformers"

    def __init__(self, *, batch_size: int = 64) -> None:
        if batch_size < 1:
            raise UserError(f"sample.transformers.batch_size is {batch_size}; give at least 1.")
        self.batch_size = batch_size
        self._loaded: tuple[Any, PreTrainedModel] | None = None

    def computes_in(self, loading: Loading) -> str:
        """The model's, see `Sampler`; on a CPU float32."""
        return loading.for_sampling.precision

    def prompts_at_once(self, options: SamplingOptions) -> int:
        """Those of one batch, so that batches are the same whoever samples them."""
        return max(1, self.batch_size // options.responses_per_prompt)

    def prepare(self, model: Model, requests: Sequence[Request], options: SamplingOptions) -> None:
        """Load the model; see `Sampler.prepare`."""
        check_positions(model.folder, (ids for _, ids in requests), options.max_response_tokens)
        self._load(model)

    def sample(
        self,
        model: Model,
        requests: Sequence[Request],
        options: SamplingOptions,
        source: str,
        *,
        done: Collection[str] = (),
    ) -> Iterator[tuple[str, list[Response]]]:
        """(prompt id, its responses) batch by batch, in the given order; see `Sampler.sample`."""
        if not requests:
            return
        check_positions(model.folder, (ids for _, ids in requests), options.max_response_tokens)
        done = set(done)
        size = self.prompts_at_once(options)
        batches = [requests[start : start + size] for start in range(0, len(requests), size)]
        left = [batch for batch in batches if any(name not in done for name, _ in batch)]
        if not left:
            return
        tokenizer = model.tokenizer()
        ends, thoughts = stop_ids(model.folder, tokenizer), Thoughts.of(tokenizer)
        network = self._load(model)
        for batch in left:
            groups = decode(network, batch, options, ends)
            for (prompt_id, prompt), group in zip(batch, groups, strict=True):
                if prompt_id not in done:
                    rows = (to_response(tokenizer, ids, ends, source) for ids in group)
                    yield prompt_id, [thoughts.apart(prompt, row) for row in rows]

    @torch.inference_mode()
    def response_logps(
        self, model: Model, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[list[float]]:
        """See `Sampler`."""
        network = self._load(model)
        rows = []
        for prompt, response in pairs:
            ids = torch.tensor([[*prompt, *response]], device=network.device)
            logits = network(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
            wanted = ids[0, len(prompt) :, None]
            rows.append(logits.log_softmax(-1).gather(1, wanted)[:, 0].tolist())
        return rows

    def close(self) -> None:
        """Free the model."""
        self._loaded = None

    def _load(self, model: Model) -> PreTrainedModel:
        key = (model.folder, contents(model.folder))
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # before the next is loaded, so that only one is in memory
            self._loaded = (key, model.for_sampling.load_on_device())
        return self._loaded[1]


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    requests: Sequence[Request],
    options: SamplingOptions,
    ends: Collection[int],
) -> list[list[list[int]]]:
    """The K responses to every request as token ids, ending with one of `ends` or cut by length."""
    # At temperature 0 the responses are the same: one is computed.
    drawn = options.responses_per_prompt if options.temperature > 0 else 1
    state, logits = _prefill(model, requests, drawn)
    seeds = [response_seed(options.seed, name, k) for name, _ in requests for k in range(drawn)]
    races = Races(seeds, model.device, 1 if model.device.type == "cpu" else AHEAD)
    written: list[list[int]] = [[] for _ in seeds]
    alive = list(range(len(written)))
    while True:
        noise = races.noise(alive, logits) if options.temperature > 0 else None
        tokens = choose(logits, options, noise)
        for row, token in zip(alive, tokens.tolist(), strict=True):
            written[row].append(token)
        going = [i for i, row in enumerate(alive) if written[row][-1] not in ends]
        if not going or len(written[alive[going[0]]]) == options.max_response_tokens:
            break
        if len(going) < len(alive):
            alive = [alive[i] for i in going]
            index = torch.tensor(going, device=tokens.device)
            state.keep(index)
            tokens = tokens[index]
        logits = state.advance(model, tokens)
    copies = options.responses_per_prompt // drawn
    return [
        [list(ids) for ids in written[start : start + drawn] * copies]
        for start in range(0, len(written), drawn)
    ]


@dataclass
class _State:
    """What decoding goes on from, for N rows."""

    cache: DynamicCache
    mask: Tensor
    """[N, T] 1 where a key is real, 0 where it pads a prompt on the left."""
    position: Tensor
    """[N] position of the next token."""

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows; `rows` [kept] are indices."""
        self.cache.batch_select_indices(rows)
        self.mask, self.position = self.mask[rows], self.position[rows]

    def advance(self, model: PreTrainedModel, tokens: Tensor) -> Tensor:
        """[N, V] logits of what follows `tokens` [N]."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        output = model(
            input_ids=tokens[:, None],
            attention_mask=self.mask,
            position_ids=self.position[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.position = self.position + 1
        return output.logits[:, -1]


def _prefill(
    model: PreTrainedModel, requests: Sequence[Request], repeats: int
) -> tuple[_State, Tensor]:
    """The prompts once, padded on the left: state and [N, V] logits, `repeats` rows per prompt."""
    lengths = [len(ids) for _, ids in requests]
    width = max(lengths)
    # Any token will do as padding: it is masked, and its position is that of the first real token.
    ids = torch.tensor([[0] * (width - len(row)) + row for _, row in requests], device=model.device)
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths], device=model.device)
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=DynamicCache(config=model.config),
        use_cache=True,
        logits_to_keep=1,
    )
    output.past_key_values.batch_repeat_interleave(repeats)
    state = _State(
        cache=output.past_key_values,
        mask=mask.repeat_interleave(repeats, 0),
        position=mask.sum(1).repeat_interleave(repeats, 0),
    )
    return state, output.logits[:, -1].repeat_interleave(repeats, 0)


AHEAD = 4
"""Tokens of a row whose noise is drawn at once on an accelerator, where the start of a kernel for
every row and token takes longer than the draws."""


class Races:
    """The noise of the draws of several rows, each row's from a generator of its own.

    So a row's noise depends on its seed and on `ahead`, and not on which rows are drawn beside it.

    Args:
        seeds: One per row.
        device: Of the logits.
        ahead: Tokens whose noise is drawn at once.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device, ahead: int = 1) -> None:
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._ahead, self._used = ahead, ahead
        self._rows: list[int] = []
        self._drawn = torch.empty(0, device=device)

    def noise(self, rows: Sequence[int], logits: Tensor) -> Tensor:
        """[N, V] float32, exponential: for the next token of N rows, by index.

        They are the rows of the call before, or some of them; each advances by V draws.
        """
        if self._used == self._ahead:
            self._used, self._rows = 0, list(rows)
            shape = (len(rows), self._ahead, logits.shape[-1])
            self._drawn = torch.empty(shape, device=logits.device)
            for row, drawn in zip(rows, self._drawn, strict=True):
                drawn.exponential_(generator=self._generators[row])
        of_token = self._drawn[:, self._used]
        self._used += 1
        if len(rows) == len(self._rows):
            return of_token
        places = {row: place for place, row in enumerate(self._rows)}
        return of_token[torch.tensor([places[row] for row in rows], device=logits.device)]


def choose(logits: Tensor, options: SamplingOptions, noise: Tensor | None) -> Tensor:
    """[N] token ids drawn from [N, V] logits: temperature, then top-k, then top-p, then the draw.

    That is an exponential race: the token with the largest p/q, q the noise of `Races`, as in
    vLLM. Rounding in p changes the winner only where two tokens all but tie, which is far rarer
    than a boundary of the cumulated distribution that moves past a uniform draw.

    Args:
        noise: [N, V]; None at temperature 0, where the likeliest token is taken.
    """
    if noise is None:
        return logits.argmax(-1)
    return filtered(logits, options).div_(noise).argmax(-1)


def filtered(logits: Tensor, options: SamplingOptions) -> Tensor:
    """[N, V] float32: the distribution that is sampled from, 0 outside top-k and top-p.

    Tokens as likely as the last one that is kept are kept as well. Not normalised after top-p: a
    race does not need it.
    """
    logits = logits.float() / options.temperature
    if 0 < options.top_k < logits.shape[-1]:
        least = logits.topk(options.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(-1)
    if options.top_p < 1:
        least = _least_in_nucleus(probabilities, options.top_p)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    return probabilities


def _least_in_nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """[N, 1] the last probability of the smallest set whose sum reaches `top_p`."""
    # Tokens below this sum to less than 1 - top_p, so none of them is needed, and far fewer than
    # the vocabulary remain to be ordered: sorting all of it costs as much as the model's layers.
    likely = probabilities >= (1 - top_p) / probabilities.shape[-1]
    count = likely.sum(-1)
    ordered = probabilities.topk(int(count.max()), dim=-1).values
    inside = (ordered.cumsum(-1) - ordered < top_p).sum(-1)
    return ordered.gather(-1, torch.minimum(inside, count)[:, None] - 1)
