"""Peeking is impossible: nothing that a rule can reach tells who is malicious."""

import dataclasses
import gc
import types
from functools import cache

import numpy as np
import pytest
import torch
from defense_support import defense_of
from small import DEFENSE, federation

from fedred.attacks import ATTACKS
from fedred.attacks.none import NoAttack
from fedred.defenses import DEFENSES
from fedred.defenses.interface import Traits, Verdict
from fedred.simulation import Federation, State, initial_state, play_round

CLOSED = (types.ModuleType, type, types.FrameType, types.BuiltinFunctionType)
SEEN = []


@dataclasses.dataclass(frozen=True)
class Spy:
    papers = ()
    tested = elsewhere = ""
    traits = Traits(clean_samples=5)

    def __call__(self, updates, view):
        SEEN.append((updates, view))
        return Verdict(updates.mean(0), torch.ones(len(updates), dtype=torch.bool))


def reachable(*roots):
    """Every object behind the roots; of a function its closure and defaults, not its module."""
    found, waiting = {}, list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in found or isinstance(one, CLOSED):
            continue
        found[id(one)] = one
        if isinstance(one, types.FunctionType):
            waiting += [one.__closure__, one.__defaults__, one.__kwdefaults__]
        else:
            waiting += gc.get_referents(one)
            waiting += [getattr(one, "__dict__", None)]
    return list(found.values())


@cache
def what_a_rule_is_shown():
    """Play two rounds of an attack with a memory; return the federation and what the spy saw."""
    fed = dataclasses.replace(federation(attack="mpaf", defense="fltrust"), defense=Spy())
    SEEN.clear()
    state = initial_state(fed)
    for _ in range(2):
        state, _ = play_round(fed, state)
    return fed, reachable(*SEEN)


def tensors(objects):
    return [one for one in objects if isinstance(one, torch.Tensor)]


def secrets(fed):
    """What only the simulation knows, as found by the same walk."""
    return reachable(fed)


def tells_who_is_malicious(one, malicious):
    """Whether a tensor, an array or a list is the ground truth, or its complement, or the ids."""
    if not isinstance(one, torch.Tensor | np.ndarray | list | tuple | set | frozenset):
        return False
    try:
        values = torch.as_tensor(np.asarray(list(one) if isinstance(one, set | frozenset) else one))
    except (TypeError, ValueError, RuntimeError):
        return False
    if values.shape == malicious.shape:
        return torch.equal(values.bool(), malicious) or torch.equal(~values.bool(), malicious)
    ids = malicious.nonzero().flatten()
    return values.shape == ids.shape and torch.equal(values.long(), ids)


def test_the_walk_finds_the_ground_truth_where_it_is():
    fed, _ = what_a_rule_is_shown()
    assert any(tells_who_is_malicious(one, fed.malicious) for one in secrets(fed))
    assert any(isinstance(one, tuple(ATTACKS.values())) for one in secrets(fed))
    closure = reachable(lambda: fed.malicious)
    assert any(tells_who_is_malicious(one, fed.malicious) for one in closure)


def test_no_rule_reaches_the_ground_truth():
    fed, shown = what_a_rule_is_shown()
    assert fed.malicious.any()
    assert not any(tells_who_is_malicious(one, fed.malicious) for one in shown)


def test_no_rule_reaches_the_federation_the_attack_or_its_memory():
    _, shown = what_a_rule_is_shown()
    assert not any(isinstance(one, Federation | State) for one in shown)
    assert not any(isinstance(one, tuple(ATTACKS.values())) for one in shown)


def test_no_rule_reaches_a_clients_data():
    fed, shown = what_a_rule_is_shown()
    private = {part.untyped_storage().data_ptr() for data in fed.clients for part in data}
    private |= {fed.test_images.untyped_storage().data_ptr()}
    assert not private & {one.untyped_storage().data_ptr() for one in tensors(shown)}
    assert any(one is fed.clean[0] for one in tensors(shown)), "its own samples it does reach"


@pytest.mark.parametrize("name", DEFENSES)
def test_no_verdict_depends_on_who_is_called_malicious(name):
    settings = DEFENSE if name == "fedredefense" else name
    fed = federation(attack="mpaf", defense=settings)
    assert type(fed.defense) is type(defense_of(name))
    quiet = dataclasses.replace(fed, attack=NoAttack())
    relabelled = dataclasses.replace(quiet, malicious=fed.malicious.flip(0))
    for one, other in zip(*(rounds_of(each) for each in (quiet, relabelled)), strict=True):
        assert torch.equal(one[0].weights, other[0].weights)
        assert torch.equal(one[1].clients["trusted"], other[1].clients["trusted"])


def rounds_of(fed, rounds=2):
    state, played = initial_state(fed), []
    for _ in range(rounds):
        state, record = play_round(fed, state)
        played.append((state, record))
    return played
