"""Swarm learning's merge by three rules, and not at all below its quorum."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from p2pftl.cloud.seams import Upload
from p2pftl.cloud.swarm_leader import SwarmLeader
from p2pftl.params import Layout

FLAT = Layout(("a",), ((3,),), ("weight",), (0,))
POINTS = np.random.default_rng(3).standard_normal((5, 3)).astype(np.float32)
UPLOADS = {f"t{k}": Upload(point, ((0, 3),), k + 1) for k, point in enumerate(POINTS)}


def test_below_the_quorum_nobody_is_answered() -> None:
    assert SwarmLeader(min_peers=6).answer(UPLOADS, FLAT, {}).offers == {}
    assert SwarmLeader(min_peers=5).answer(UPLOADS, FLAT, {}).offers.keys() == UPLOADS.keys()


def test_the_coordinate_median_is_numpys() -> None:
    (merged,) = SwarmLeader(merge="median").answer(UPLOADS, FLAT, {}).offers["t0"]
    assert np.allclose(merged, np.median(POINTS, axis=0))


def test_the_geometric_median_has_the_least_sum_of_weighted_distances() -> None:
    (merged,) = SwarmLeader(merge="geometric_median").answer(UPLOADS, FLAT, {}).offers["t0"]
    weights = np.arange(1, 6)
    best = minimize(lambda at: (weights * np.sqrt(np.square(POINTS - at).sum(1))).sum(), POINTS.mean(0), method="Nelder-Mead", tol=1e-8)
    assert np.allclose(merged, best.x, atol=1e-3)
