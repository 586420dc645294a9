"""K-means on unit vectors: scikit-learn's, made deterministic and quiet about few distinct rows."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recontour.errors import RefinerError

STARTS = 5


def kmeans(
    x: NDArray[np.float32], k: int, *, seed: int = 0, starts: int = STARTS
) -> NDArray[np.float32]:
    """Centres of the best of `starts` runs of Lloyd's algorithm from k-means++.

    scikit-learn's `KMeans(n_init=1)`, `starts` times. Its threads share each step, so that the last
    bits, and with them sometimes the clusters, depend on how many there are and on who is first,
    and on a busy machine they wait for each other; here every run has one thread and the runs go
    side by side. `lloyd` was faster than `elkan` on rows of hundreds of numbers.

    Parameters
    ----------
    x : float32 (n, d); not modified, copied once a thread
    k : centres, 1 to n
    seed : same seed, same rows, same centres

    Returns
    -------
    float32 (m, d), not normalised; m < k where there are fewer than k distinct rows

    Raises
    ------
    RefinerError : more centres than rows, or a value that is NaN or infinite
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import ThreadpoolController

    if not 1 <= k <= len(x):
        raise RefinerError(
            f"{k} clusters of {len(x)} rows: there can be no more clusters than rows"
        )
    if not np.isfinite(x.sum(dtype=np.float64)):
        raise RefinerError("features hold NaN or infinite values; embed the slide again")
    if k == len(x):
        return np.unique(x, axis=0)
    control = ThreadpoolController()

    def one_thread() -> None:
        # Counts for the thread that asks only, and that ends with its last run.
        control.select(user_api="openmp").limit(limits=1)

    def run(run_seed: int) -> Any:
        return KMeans(k, n_init=1, algorithm="lloyd", random_state=run_seed).fit(x)

    seeds = np.random.default_rng(seed).integers(2**31 - 1, size=starts).tolist()
    with control.limit(limits=1, user_api="blas"), warnings.catch_warnings():
        # Fewer distinct rows than centres is no fault: the centres nobody belongs to are dropped.
        warnings.simplefilter("ignore", ConvergenceWarning)
        with ThreadPoolExecutor(
            min(torch.get_num_threads(), starts), initializer=one_thread
        ) as pool:
            models = list(pool.map(run, seeds))
    best = min(models, key=lambda model: float(model.inertia_))
    centres: NDArray[np.float32] = best.cluster_centers_[np.unique(best.labels_)]
    return centres
