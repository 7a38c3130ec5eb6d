"""The control's temperature: where the warmed-up student has the trained one's entropy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import build_model

from rankdistill.evaluate.tokens import batches_of, matching_temperature, mean_entropy
from rankdistill.forward import TokenGroup, bind
from rankdistill.models import Rows
from rankdistill.stages import comparison
from rankdistill.stages.comparison import BOUNDS, control_temperature


def control(
    monkeypatch, entropy_at: Any, *, wanted: float, first: float, own: float = 1.0
) -> tuple[float, list[float]]:
    """The control's temperature, and those at which the student was asked to write.

    Args:
        entropy_at: Of what the warmed-up student writes at a temperature.
        wanted: Entropy of the trained student.
        first: The temperature that gives the given responses that entropy.
        own: Temperature of the warmed-up student.
    """
    written: list[float] = []

    def entropy_of_own(run, reference, prompts, temperature):
        written.append(temperature)
        return entropy_at(temperature)

    def for_own(run, reference, entropy):
        assert entropy == wanted
        return first

    monkeypatch.setattr(comparison, "_for_own_responses", for_own)
    monkeypatch.setattr(comparison, "_entropy_at", entropy_of_own)
    run: Any = None
    reference: Any = SimpleNamespace(baseline=SimpleNamespace(temperature=own))
    temperature = control_temperature(run, reference, Rows([]), own=entropy_at(own), wanted=wanted)
    return temperature, written


def line(temperature: float) -> float:
    """2 nats at temperature 1; each tenth less takes 0.3 nats."""
    return 3.0 * temperature - 1.0


@pytest.mark.parametrize(
    ("wanted", "first", "expected"),
    [
        (1.4, 0.9, 0.8),  # the first guess is too hot
        (1.4, 0.7, 0.8),  # too cold
        (1.4, 0.8, 0.8),  # right
        (2.6, 1.1, 1.2),  # a trained student that is less sure
        (2.6, 1.4, 1.2),
    ],
)
def test_the_secant_lands_where_the_entropy_is_the_wanted_one(monkeypatch, wanted, first, expected):
    temperature, written = control(monkeypatch, line, wanted=wanted, first=first)
    assert temperature == pytest.approx(expected, abs=1e-4)
    assert line(temperature) == pytest.approx(wanted, abs=1e-3)
    assert written == [first]


def test_it_starts_at_the_students_own_temperature(monkeypatch):
    temperature, _ = control(monkeypatch, line, wanted=0.5, first=0.6, own=0.8)
    assert temperature == pytest.approx(0.5, abs=1e-4)


def test_a_curve_comes_nearer_in_one_step(monkeypatch):
    def curve(temperature: float) -> float:
        return 2.0 * temperature**2

    temperature, _ = control(monkeypatch, curve, wanted=0.98, first=0.8)
    # By hand: through (1, 2) and (0.8, 1.28), 0.8 + (0.98 - 1.28) * 0.2 / 0.72.
    assert temperature == pytest.approx(0.8 - 0.3 * 0.2 / 0.72, abs=1e-4)
    assert abs(curve(temperature) - 0.98) < 0.2 * abs(curve(0.8) - 0.98)


@pytest.mark.parametrize(("wanted", "bound"), [(-5.0, BOUNDS[0]), (50.0, BOUNDS[1])])
def test_it_stays_within_the_bounds(monkeypatch, wanted, bound):
    assert control(monkeypatch, line, wanted=wanted, first=0.5)[0] == bound


@pytest.mark.parametrize("slope", [0.0, 1e-7])
def test_without_a_slope_the_first_guess_stays(monkeypatch, slope):
    temperature, _ = control(monkeypatch, lambda t: 1.0 + slope * t, wanted=0.9, first=0.7)
    assert temperature == 0.7


def test_nobody_writes_twice_at_the_same_temperature(monkeypatch):
    # The first guess is the student's own temperature: two equal points have no secant.
    assert control(monkeypatch, line, wanted=2.0, first=1.0)[0] == 1.0


def test_a_tiny_student_comes_nearer_to_the_entropy_that_is_wanted(monkeypatch):
    model = build_model().double()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(25.0)
    student = bind(model, "shared")
    prompts = [[5, 9, 30, 7], [100, 3], [17, 18, 19, 20]]

    def written_at(temperature: float) -> Any:
        """Its own responses there, eight tokens to each of the prompts eight times over."""
        torch.manual_seed(0)
        groups = []
        for prompt in prompts:
            responses = []
            for _ in range(8):
                ids = list(prompt)
                for _ in range(8):
                    with torch.no_grad():
                        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
                    chances = torch.softmax(logits / temperature, -1)
                    ids.append(int(torch.multinomial(chances, 1)))
                responses.append(ids[len(prompt) :])
            groups.append(TokenGroup(prompt, responses))
        return list(batches_of(groups, max_batch_tokens=4096))

    def entropy_at(temperature: float) -> float:
        return mean_entropy(student, written_at(temperature), temperature)

    wanted = entropy_at(0.5)
    first = matching_temperature(student, written_at(1.0), wanted).temperature
    temperature, _ = control(monkeypatch, entropy_at, wanted=wanted, first=first)
    assert abs(entropy_at(temperature) - wanted) < abs(entropy_at(first) - wanted)
