"""The networks by their known sizes, on any image, and as a function of one seeded vector."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torch import nn

from fedred.errors import UserError
from fedred.models import MLP, MODELS, ConvNet, ResNet, flat_model, initial_parameters
from fedred.parameters import FlatModel

SMALL = [
    ConvNet(width=4, depth=2),
    ConvNet(width=8, depth=1, norm="group", pooling="max"),
    ConvNet(width=3, depth=2, norm="none", pooling="none"),
    MLP(width=5, depth=2),
    MLP(depth=0),
    ResNet(width=16, stages=2, blocks=2),
]


def seeded(seed=0):
    return np.random.default_rng(seed)


def images_of(shape, samples=2):
    return torch.from_numpy(seeded(1).standard_normal((samples, *shape), "float32"))


def constants_and_bounds(model):
    """For each parameter in order: (constant, None) or (None, bound), by PyTorch's documentation."""
    for layer in model.module.modules():
        if isinstance(layer, nn.GroupNorm):
            yield from [(1.0, None), (0.0, None)]
        elif isinstance(layer, nn.Conv2d):
            fan_in = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
            yield from [(None, 1 / math.sqrt(fan_in))] * 2
        elif isinstance(layer, nn.Linear):
            yield from [(None, 1 / math.sqrt(layer.in_features))] * 2


@pytest.mark.parametrize(("shape", "size"), [((3, 32, 32), 320_010), ((1, 28, 28), 317_706)])
def test_the_papers_network_has_the_papers_size(shape, size):
    assert flat_model(ConvNet(), shape, 10).size == size


@pytest.mark.parametrize(
    ("depth", "size"), [(0, 4 * 3 + 3), (2, 4 * 5 + 5 + 5 * 5 + 5 + 5 * 3 + 3)]
)
def test_mlp_size_by_hand(depth, size):
    assert flat_model(MLP(width=5, depth=depth), (1, 2, 2), 3).size == size


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=15, deadline=None)
@given(side=st.tuples(st.integers(1, 40), st.integers(1, 40)), channels=st.sampled_from([1, 3]))
def test_any_image_size_works(name, side, channels):
    options = {"width": 16} if "width" in MODELS[name].__dataclass_fields__ else {}
    model = flat_model(MODELS[name](**options), (channels, *side), 4)
    for samples in (1, 2):
        logits = model(initial_parameters(model, seeded()), images_of((channels, *side), samples))
        assert logits.shape == (samples, 4)
        assert logits.isfinite().all()


@pytest.mark.parametrize("network", SMALL)
def test_samples_do_not_touch_each_other(network):
    model = flat_model(network, (3, 8, 8), 4)
    vector, images = initial_parameters(model, seeded()), images_of((3, 8, 8), 3)
    together = model(vector, images)
    alone = torch.cat([model(vector, image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", SMALL)
def test_model_of_a_vector_equals_the_module_with_those_parameters(network):
    model = flat_model(network, (3, 8, 8), 4)
    twin = network.build(3, 8, 8, 4)
    vector, images = initial_parameters(model, seeded()), images_of((3, 8, 8))
    nn.utils.vector_to_parameters(vector.clone(), twin.parameters())
    own = model.flatten().clone()
    torch.testing.assert_close(model(vector, images), twin(images), rtol=1e-6, atol=1e-6)
    assert not torch.equal(own, vector)
    assert torch.equal(model.flatten(), own), "a call must not change the module"


@pytest.mark.parametrize("network", SMALL)
def test_flatten_and_unflatten_are_inverse(network):
    model = flat_model(network, (1, 8, 8), 4)
    named = model.unflatten(model.flatten())
    assert list(named) == [name for name, _ in model.module.named_parameters()]
    for name, parameter in model.module.named_parameters():
        assert torch.equal(named[name], parameter)
    vector = torch.arange(model.size, dtype=torch.float32)
    assert torch.equal(
        torch.cat([part.reshape(-1) for part in model.unflatten(vector).values()]), vector
    )


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_vector_of_another_length_is_refused(wrong):
    model = flat_model(MLP(width=3), (1, 2, 2), 2)
    with pytest.raises(RuntimeError):
        model.unflatten(torch.zeros(model.size + wrong))


@pytest.mark.parametrize("network", SMALL)
def test_initial_parameters_lie_within_the_documented_bounds_and_in_order(network):
    model = flat_model(network, (3, 8, 8), 4)
    parts = model.unflatten(initial_parameters(model, seeded()))
    assert initial_parameters(model, seeded()).shape == (model.size,)
    for (name, part), (constant, bound) in zip(
        parts.items(), constants_and_bounds(model), strict=True
    ):
        if constant is not None:
            assert (part == constant).all(), name
            continue
        assert part.abs().max() <= bound, name
        if part.numel() >= 200:
            assert part.abs().max() > 0.95 * bound, name
            assert part.std() == pytest.approx(bound / math.sqrt(3), rel=0.15), name


@pytest.mark.parametrize("network", [ConvNet(width=32), MLP(width=64), ResNet(width=16)])
def test_initial_parameters_are_distributed_as_pytorch_draws_them(network):
    """Kolmogorov-Smirnov, layer by layer, against each layer's own reset_parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = flat_model(network, (3, 16, 16), 10)
    theirs, ours = (
        model.unflatten(vector) for vector in (model.flatten(), initial_parameters(model, seeded()))
    )
    for name in theirs:
        result = ks_2samp(theirs[name].flatten().numpy(), ours[name].flatten().numpy())
        assert result.pvalue > 1e-4, name


@pytest.mark.parametrize("network", SMALL)
def test_initial_parameters_are_a_function_of_the_generator_alone(network):
    one, other = (flat_model(network, (1, 8, 8), 4) for _ in range(2))
    vector = initial_parameters(one, seeded(3))
    assert vector.dtype == torch.float32
    assert torch.equal(vector, initial_parameters(other, seeded(3)))
    assert not torch.equal(vector, initial_parameters(other, seeded(4)))


def test_batch_norm_is_refused_by_the_name_of_its_buffer():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    with pytest.raises(UserError, match=r"has the buffer '1\.running_mean'.*GroupNorm in place"):
        FlatModel(module, (1, 8, 8), 2)


def test_a_layer_without_known_distribution_is_refused():
    model = FlatModel(nn.Sequential(nn.Flatten(), nn.Bilinear(2, 2, 2)), (1, 2, 2), 2)
    with pytest.raises(UserError, match="no seeded initialisation is known for layer Bilinear"):
        initial_parameters(model, seeded())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8)])
def test_padding_is_even_and_only_where_needed(shape):
    padding = ConvNet(width=1).build(*shape, 2)[0]
    images = images_of(shape)
    padded = padding(images)
    height, width = ((side + 7) // 8 * 8 for side in shape[1:])
    assert padded.shape[2:] == (height, width)
    top, left = (height - shape[1]) // 2, (width - shape[2]) // 2
    inner = padded[..., top : top + shape[1], left : left + shape[2]]
    assert torch.equal(inner, images)
    assert padded.abs().sum() == pytest.approx(float(images.abs().sum()))
