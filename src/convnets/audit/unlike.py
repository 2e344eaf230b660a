"""Pictures unlike all others, or unlike those of their class, by distances in the features."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convnets.audit.head import Floats, Ints, roots

# The distance to a neighbour that far says more than that to the nearest: pictures that do not
# belong are often alike, such as fifty screenshots, and each other's nearest neighbours.
NEIGHBOUR = 0.015  # of all pictures
FEWEST = 5
# The two spreads together that name a picture, compared with all: 0.3 % of 5,000 photographs of
# cats and dogs; of digits, drawn screenshots, noise or flowers among them, 95 % or more.
LIMIT = 7.0
REFERENCES = 2500  # pictures that the others are compared with
BLOCK = 1000


class Unlike(NamedTuple):
    """How unlike others n pictures are, in spreads; LIMIT or more are named."""

    all: Floats  # (n,) compared with all pictures
    own: Floats  # (n,) compared with those of their class; 0 where it has fewer than 4 * FEWEST


def unlike(features: Floats, labels: Ints) -> Unlike:
    """Return how far each picture is from the others.

    Twice the cosine distance of the roots of the features to a near neighbour, once as they are and
    once from their mean: what is far in the first has other features, in the second another
    mixture of them. Each is counted in spreads (median to upper quartile) from the median. A kind
    of distance, to a neighbour whose rank grows with the number: Ramaswamy et al. (2000), SIGMOD.

    Args:
        features: (n, d) pooled activations, 0 or more.
        labels: (n,) classes, from 0.
    """
    plain = unit_length(roots(features))
    own = np.zeros(len(labels), np.float32)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) >= 4 * FEWEST:
            own[rows] = _spreads(plain[rows])
    return Unlike(_spreads(plain), own)


def _spreads(plain: Floats) -> Floats:
    centred = unit_length(plain - plain.mean(0))
    # Every so many of them in an order of their own, so that the given order does not matter.
    order = np.lexsort(plain.T[:8])
    references = order[np.unique(np.linspace(0, len(order) - 1, REFERENCES).astype(int))]
    rank = max(FEWEST, round(NEIGHBOUR * len(references)))
    rank = min(rank, len(references) - 1)
    found = np.zeros(len(plain), np.float32)
    for unit in (plain, centred):
        far = np.empty(len(plain), np.float32)
        for start in range(0, len(plain), BLOCK):
            distances = 1 - unit[start : start + BLOCK] @ unit[references].T
            far[start : start + BLOCK] = np.partition(distances, rank, axis=1)[:, rank]
        middle, upper = np.quantile(far, [0.5, 0.75])
        found += (far - middle) / (upper - middle + 1e-6)
    return found


def unit_length(vectors: Floats) -> Floats:
    """Return (n, d) vectors of length 1, or of 0."""
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Floats = vectors / (lengths + np.float32(1e-12))
    return found
