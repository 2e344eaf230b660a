"""A map of all pictures in two dimensions: pictures that look alike are near each other."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from convnets.audit.head import Floats, roots

LANDMARKS = 800  # t-SNE places so many, in two seconds; the others go between them
COMPONENTS = 50
NEAREST = 3


def plane(features: Floats, seed: int) -> Floats:
    """Return (n, 2) places between 0 and 1, the same for the same features in any order.

    t-SNE (van der Maaten and Hinton, 2008) of the principal components. Of more than LANDMARKS
    pictures, it places some; each other picture is at the mean place of its nearest of these.

    Args:
        features: (n, d) pooled activations, 0 or more.
        seed: for the principal components.
    """
    order = np.lexsort(features.T[:8])
    inputs = roots(features[order])
    count = len(inputs)
    components = min(COMPONENTS, *inputs.shape)
    if count < 4 or not np.ptp(inputs, axis=0).any():
        return np.full((count, 2), 0.5, np.float32)
    found = PCA(components, svd_solver="randomized", random_state=seed).fit_transform(inputs)
    marks = np.unique(np.linspace(0, count - 1, LANDMARKS).astype(int))
    perplexity = min(30.0, (len(marks) - 1) / 3)
    tsne = TSNE(init="pca", perplexity=perplexity, max_iter=500, random_state=seed)
    marked = tsne.fit_transform(found[marks])
    squares = (found**2).sum(1)[:, None] - 2 * found @ found[marks].T + (found[marks] ** 2).sum(1)
    near = np.argsort(squares, axis=1, kind="stable")[:, :NEAREST]
    near[marks] = np.arange(len(marks))[:, None]
    places = np.empty((count, 2), np.float32)
    places[order] = marked[near].mean(1)
    places -= places.min(0)
    places /= places.max(0) + np.float32(1e-12)
    return places
