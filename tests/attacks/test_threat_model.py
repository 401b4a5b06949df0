"""Through the real simulation: attackers see what their `knowledge` says, and nothing else."""

import gc
from dataclasses import dataclass, field, fields, replace
from functools import cache
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import ClassVar

import pytest
import torch
from attack_support import BUILT_WITH, attack_of
from small import federation

from fedred.attacks import ATTACKS
from fedred.attacks.interface import Forged, train_honestly
from fedred.defenses.interface import Verdict
from fedred.simulation import Federation, initial_state, local_updates, play_round

NOT_ENTERED = (type, ModuleType, BuiltinFunctionType)
HONEST, MALICIOUS = list(range(6)), [6, 7]


@dataclass(frozen=True)
class Spy:
    """An attack that sends what it trained and keeps all that it was shown."""

    knowledge: str = "own"
    shown: list = field(default_factory=list)

    papers: ClassVar[tuple] = ()
    tested: ClassVar[str] = "a spy"
    elsewhere: ClassVar[str] = ""
    backdoor: ClassVar[None] = None
    poison = train_honestly

    def forge(self, own_updates, view):
        self.shown.append((own_updates.clone(), own_updates.untyped_storage().nbytes(), view))
        return Forged(own_updates, {"memory": torch.ones(2)})


@dataclass(frozen=True)
class Recorder:
    """A defense that takes the mean and keeps what it received."""

    received: list = field(default_factory=list)

    papers: ClassVar[tuple] = ()
    selects: ClassVar[bool] = False

    def __call__(self, updates, view):
        self.received.append(updates.clone())
        return Verdict(updates.mean(0), torch.ones(len(updates), dtype=torch.bool))


@cache
def plain():
    """Eight clients, of which the last two are malicious; all take part."""
    return federation(attack="sign_flip")


@cache
def after_one_round():
    """A state in which the model has moved."""
    world = replace(plain(), attack=Spy(), defense=Recorder())
    return replace(play_round(world, initial_state(world))[0], attack={})


def state_of(round):
    return after_one_round() if round == 2 else initial_state(plain())


def trained(round):
    """The updates of all clients before anybody forges, by client id."""
    weights = state_of(round).weights
    return local_updates(plain(), weights, torch.arange(8), round)


def spied(knowledge, round=1, **changes):
    """What the spy was shown: its own updates, the bytes behind them, and its view."""
    spy = Spy(knowledge)
    play_round(replace(plain(), attack=spy, **changes), state_of(round))
    (shown,) = spy.shown
    return shown


def contents(item):
    """What an object leads to; of a function its closure and defaults, but not its globals."""
    if isinstance(item, FunctionType):
        return [item.__closure__, item.__defaults__, item.__kwdefaults__, vars(item)]
    if isinstance(item, MethodType):
        return [item.__self__, item.__func__]
    return [] if isinstance(item, NOT_ENTERED) else gc.get_referents(item)


def reachable(root):
    """Everything to which an object leads."""
    found, waiting = {}, [root]
    while waiting:
        item = waiting.pop()
        if id(item) not in found:
            found[id(item)] = item
            waiting.extend(contents(item))
    return list(found.values())


def tensors_of(objects):
    return [item for item in objects if isinstance(item, torch.Tensor)]


def shares(one, other):
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def contains(tensor, secret):
    """Whether a tensor is the secret, or has it as one of its rows."""
    if tensor.dtype != secret.dtype or tensor.shape[-secret.dim() :] != secret.shape:
        return False
    rows = tensor.reshape(-1, *secret.shape)
    return bool((rows == secret).flatten(1).all(1).any())


def leaks(root, secrets):
    """The names of the secrets to which an object leads."""
    tensors = tensors_of(reachable(root))
    return {
        name
        for name, secret in secrets.items()
        if any(shares(tensor, secret) or contains(tensor, secret) for tensor in tensors)
    }


def updates_of(clients, round):
    rows = trained(round)
    return {f"update {client}": rows[client].clone() for client in clients}


def secrets(round):
    """What an attacker must not know: the honest clients' updates and data, and the ground truth."""
    data = {
        f"{kind} {client}": tensor
        for client in HONEST
        for kind, tensor in zip(("images", "labels"), plain().clients[client], strict=True)
    }
    test = {"test images": plain().test_images, "test labels": plain().test_labels}
    return {**data, **test, **updates_of(HONEST, round), "malicious": plain().malicious}


# The walk itself


def test_the_walk_finds_every_secret_of_a_federation():
    known = {name for name in secrets(1) if not name.startswith("update")}
    assert leaks(plain(), secrets(1)) == known


def test_the_walk_looks_into_closures_bound_methods_and_defaults():
    """A closure as `generator` would give the ground truth away."""
    world = plain()
    views = [
        replace(spied("own")[2], generator=generator)
        for generator in (
            lambda client: world.seed,
            lambda client, hidden=world: hidden.seed,
            world.to,
        )
    ]
    for view in views:
        assert any(item is world for item in reachable(view))
        assert "malicious" in leaks(view, secrets(1))


def test_the_walk_finds_copies_and_views_of_a_secret():
    images = plain().clients[2][0]
    for leak in (images.clone(), images[3:], torch.stack([images, images])):
        assert leaks({"deep": [(leak,)]}, secrets(1)) == {"images 2"}


# The view


@pytest.mark.parametrize("round", [1, 2])
def test_an_attacker_of_own_knowledge_reaches_no_honest_update_or_data(round):
    own, _, view = spied("own", round)
    assert view.honest_updates is None
    assert leaks(view, secrets(round)) == set()
    assert torch.equal(own, trained(round)[MALICIOUS])


@pytest.mark.parametrize("knowledge", ["own", "full"])
def test_no_attacker_reaches_the_federation_or_the_ground_truth(knowledge):
    _, _, view = spied(knowledge)
    assert not any(isinstance(item, Federation) for item in reachable(view))
    assert "malicious" not in leaks(view, secrets(1))


def test_no_other_updates_lie_in_the_memory_behind_the_own_ones():
    own, nbytes, _ = spied("own")
    assert nbytes == own.numel() * own.element_size()


@pytest.mark.parametrize("round", [1, 2])
def test_an_attacker_of_full_knowledge_sees_exactly_the_honest_updates_and_no_data(round):
    own, _, view = spied("full", round)
    assert torch.equal(view.honest_updates, trained(round)[HONEST])
    assert torch.equal(own, trained(round)[MALICIOUS])
    assert leaks(view, secrets(round)) == set(updates_of(HONEST, round))


def test_of_full_knowledge_are_the_updates_of_participants_alone():
    own, _, view = spied("full", participation=0.75)
    assert view.participants == len(own) + len(view.honest_updates) == 6
    expected = trained(1)
    assert all(contains(expected[HONEST], row) for row in view.honest_updates)
    assert torch.equal(own, expected[list(view.clients)])


def test_with_nobody_honest_there_is_nothing_to_see():
    _, _, view = spied("full", malicious=torch.ones(8, dtype=torch.bool))
    assert view.honest_updates is None
    assert view.participants == len(view.clients) == 8


def test_public_facts_are_those_of_the_round():
    state = after_one_round()
    _, _, view = spied("own", round=2)
    assert view.round == 2
    assert view.clients == tuple(MALICIOUS)
    assert view.participants == 8
    assert view.samples.tolist() == [len(plain().clients[client][1]) for client in MALICIOUS]
    assert view.training == plain().training
    assert torch.equal(view.weights, state.weights)
    assert torch.equal(view.previous_weights, state.previous_weights)
    assert torch.equal(view.initial_weights, initial_state(plain()).weights)


def test_an_attack_finds_the_memory_it_returned():
    spy = Spy()
    world = replace(plain(), attack=spy)
    state, _ = play_round(world, initial_state(world))
    play_round(world, state)
    (_, _, first), (_, _, second) = spy.shown
    assert not first.state
    assert torch.equal(second.state["memory"], torch.ones(2))


# The forgery


def with_other_data(client):
    """The same federation, but for the pixels and labels of one client."""
    clients = list(plain().clients)
    images, labels = clients[client]
    clients[client] = (-images.flip(-1), (labels + 1) % 10)
    return replace(plain(), clients=tuple(clients))


def received(world, attack, round):
    """What the server receives in one round [8, P]."""
    recorder = Recorder()
    play_round(replace(world, attack=attack, defense=recorder), state_of(round))
    return recorder.received[0]


def attacks_to_compare():
    return [(name, round) for name in ATTACKS for round in (1, 2)]


@pytest.mark.parametrize(("name", "round"), attacks_to_compare())
def test_an_honest_clients_data_does_not_change_what_is_forged(name, round):
    before, after = (
        received(world, attack_of(name), round) for world in (plain(), with_other_data(0))
    )
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1:], before[1:])


def attacks_of_two_threat_models():
    return [
        name for name, attack in ATTACKS.items() if "knowledge" in {f.name for f in fields(attack)}
    ]


@pytest.mark.parametrize("name", attacks_of_two_threat_models())
def test_an_honest_clients_data_changes_what_is_forged_with_full_knowledge(name):
    """Else the test above could not fail."""
    attack = attack_of(name, knowledge="full")
    before, after = (received(world, attack, 1) for world in (plain(), with_other_data(0)))
    assert not torch.equal(after[MALICIOUS], before[MALICIOUS])
    assert torch.equal(after[1:6], before[1:6])


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in ("none", *BUILT_WITH)])
def test_honest_rows_are_what_the_honest_trained_whoever_attacks(name):
    rows = received(plain(), attack_of(name), 2)
    assert torch.equal(rows[HONEST], trained(2)[HONEST])
