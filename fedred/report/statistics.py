"""Mean and spread over seeds."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

FloatArray = NDArray[np.float64]


class Spread(NamedTuple):
    """Mean over the first axis with its spread, each of the shape of one sample."""

    mean: FloatArray
    std: FloatArray
    ci95: FloatArray


def spread(samples: FloatArray) -> Spread:
    """Return mean, standard deviation and 95 % confidence half-width over seeds.

    std = sqrt(sum (x - mean)^2 / (n - 1)),  ci95 = t_{0.975, n-1} * std / sqrt(n)

    Args:
        samples: [n, ...], one row a seed, n at least 1.

    Returns:
        Three arrays [...]; std and ci95 are NaN when n is 1.
    """
    n = len(samples)
    mean = np.asarray(samples.mean(axis=0))
    if n == 1:
        return Spread(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    std = np.asarray(samples.std(axis=0, ddof=1))
    return Spread(mean, std, std * (stdtrit(n - 1, 0.975) / np.sqrt(n)))
