"""Metrics by hand, by their identities, and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fedred.attacks.trigger import PixelTrigger
from fedred.metrics import (
    EVALUATION_BATCH,
    accuracy,
    attack_success_rate,
    auroc,
    average_detection,
    detection_rates,
    predictions,
)
from fedred.models import MLP, flat_model

FLAGS = st.lists(st.booleans(), min_size=1, max_size=30)
SCORES = st.lists(
    st.tuples(
        st.sampled_from([-2.0, 0.0, 0.5, 0.5 + 1e-9, 3.0, math.inf, math.nan]), st.booleans()
    ),
    min_size=2,
    max_size=30,
)


def bools(values):
    return torch.tensor(values, dtype=torch.bool)


def known_model():
    """A linear model on 28x28: class 2 sees pixel (0, 0), class 0 the trigger pixel (25, 25)."""
    model = flat_model(MLP(depth=0), (1, 28, 28), 3)
    weight, bias = torch.zeros(3, 28, 28), torch.tensor([0.0, 0.5, 0.0])
    weight[2, 0, 0] = 5.0
    weight[0, 25, 25] = 1.0
    return model, torch.cat([weight.reshape(-1), bias])


def known_test_set():
    """Two blank images of class 0, four blank ones of class 1, four of class 2 with pixel (0, 0)."""
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2, 1])
    images = torch.zeros(10, 1, 28, 28)
    images[labels == 2, 0, 0, 0] = 1.0
    return images, labels


def test_accuracy_of_a_known_model():
    """Blank images go to class 1 by its bias: the two of class 0 are wrong."""
    assert accuracy(*known_model(), *known_test_set()) == pytest.approx(0.8)


def test_attack_success_counts_only_images_that_are_not_of_the_target():
    """The trigger moves blank images to class 0, but not those of class 2: 4 of 8."""
    assert attack_success_rate(*known_model(), *known_test_set(), PixelTrigger(0)) == 0.5
    assert attack_success_rate(*known_model(), *known_test_set(), PixelTrigger(2)) == 0.0
    assert attack_success_rate(*known_model(), *known_test_set(), PixelTrigger(1)) == 0.0


def test_attack_success_without_a_backdoor_or_without_other_images_is_nan():
    model, weights = known_model()
    images, labels = known_test_set()
    assert math.isnan(attack_success_rate(model, weights, images, labels, None))
    zeros = torch.zeros_like(labels)
    assert math.isnan(attack_success_rate(model, weights, images, zeros, PixelTrigger(0)))


def test_measuring_leaves_the_test_images_as_they_are():
    images, labels = known_test_set()
    before = images.clone()
    attack_success_rate(*known_model(), images, labels, PixelTrigger(0))
    assert torch.equal(images, before)


def test_predictions_do_not_depend_on_the_evaluation_batch():
    model, weights = known_model()
    images, labels = known_test_set()
    copies = EVALUATION_BATCH[images.device.type] // len(images) + 2
    many = predictions(model, weights, images.repeat(copies, 1, 1, 1))
    assert torch.equal(many, predictions(model, weights, images).repeat(copies))
    assert math.isnan(accuracy(model, weights, images[:0], labels[:0]))


def test_detection_rates_by_hand():
    flagged = bools([1, 0, 0, 1, 0])
    malicious = bools([0, 0, 0, 1, 1])
    rates = detection_rates(flagged, malicious)
    assert rates == pytest.approx({"DACC": 3 / 5, "FPR": 1 / 3, "FNR": 1 / 2})


def test_perfect_and_inverted_detection():
    malicious = bools([0, 1, 1, 0])
    assert detection_rates(malicious, malicious) == {"DACC": 1, "FPR": 0, "FNR": 0}
    assert detection_rates(~malicious, malicious) == {"DACC": 0, "FPR": 1, "FNR": 1}


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_accuracy_is_the_weighted_sum_of_the_two_error_rates(clients):
    flagged, malicious = bools(clients).T
    assume(malicious.any() and not malicious.all())
    share = float(malicious.double().mean())
    rates = detection_rates(flagged, malicious)
    expected = share * rates["FNR"] + (1 - share) * rates["FPR"]
    assert 1 - rates["DACC"] == pytest.approx(expected, abs=1e-12)


@given(FLAGS)
def test_a_rate_over_nobody_is_nan(flags):
    flagged, nobody = bools(flags), torch.zeros(len(flags), dtype=torch.bool)
    honest_only, malicious_only = (
        detection_rates(flagged, nobody),
        detection_rates(flagged, ~nobody),
    )
    assert math.isnan(honest_only["FNR"])
    assert math.isnan(malicious_only["FPR"])
    assert honest_only["DACC"] == pytest.approx(1 - honest_only["FPR"])
    assert malicious_only["DACC"] == pytest.approx(1 - malicious_only["FNR"])


def published_rounds():
    """500 rounds, 28 of 100 malicious, with the authors' AFPR 20.80 % and AFNR 66.40 % (erratum).

    14.976 honest flagged and 18.592 malicious let in, a round, made of whole clients.
    """
    malicious = torch.arange(100) >= 72
    for round in range(500):
        flagged = torch.zeros(100, dtype=torch.bool)
        flagged[: 14 + (round < 488)] = True
        flagged[72 : 72 + 28 - 18 - (round < 296)] = True
        yield detection_rates(flagged, malicious)


def test_the_published_numbers_of_the_erratum_agree_with_these_definitions():
    rates = average_detection(published_rounds())
    assert rates["AFPR"] == pytest.approx(0.2080, abs=5e-5)
    assert rates["AFNR"] == pytest.approx(0.6640, abs=5e-5)
    assert rates["ADACC"] == pytest.approx(0.6643, abs=1e-4)
    assert rates["AAR"] == pytest.approx(332, abs=0.05)


def test_averages_over_rounds_by_hand():
    rounds = [{"DACC": 1.0, "FPR": 0.0, "FNR": 0.0}, {"DACC": 0.5, "FPR": 0.25, "FNR": 1.0}]
    expected = {"ADACC": 0.75, "AFPR": 0.125, "AFNR": 0.5, "AAR": 1.0}
    assert average_detection(rounds) == pytest.approx(expected)


@given(SCORES)
def test_auroc_equals_scikit_learn_with_ties_and_with_not_finite_scores_on_top(clients):
    scores = torch.tensor([score for score, _ in clients], dtype=torch.float64)
    malicious = bools([label for _, label in clients])
    assume(malicious.any() and not malicious.all())
    finite = np.nan_to_num(scores.numpy(), nan=1e300, posinf=1e300)
    expected = roc_auc_score(malicious.numpy(), finite)
    assert auroc(scores, malicious) == pytest.approx(expected, abs=1e-12)


@given(SCORES)
def test_auroc_of_the_other_group_is_its_complement(clients):
    scores = torch.tensor([score for score, _ in clients])
    malicious = bools([label for _, label in clients])
    assume(malicious.any() and not malicious.all())
    assert auroc(scores, malicious) + auroc(scores, ~malicious) == pytest.approx(1)


def test_auroc_is_nan_when_a_group_is_empty():
    scores = torch.tensor([0.1, 0.2])
    assert math.isnan(auroc(scores, bools([0, 0])))
    assert math.isnan(auroc(scores, bools([1, 1])))


def test_auroc_separates_float32_neighbours():
    low = torch.tensor(0.6, dtype=torch.float32)
    high = torch.nextafter(low, torch.tensor(1.0))
    assert auroc(torch.stack([low, high]), bools([0, 1])) == 1.0
