"""Mixing matrices: all weights of a graph together, and what they promise. Brings scipy, which a twin does not need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy import sparse as sp
from scipy.sparse import csgraph
from scipy.sparse import linalg as sla

from p2pftl.errors import TopologyError
from p2pftl.gossip.seams import Mixing, Side, Signs

if TYPE_CHECKING:
    Graph: TypeAlias = nx.Graph[str]

Matrix = npt.NDArray[np.float64]

DENSE = 500
"""Up to so many twins eigenvalues come from the dense matrix."""
EXACT = 2_000
"""Up to so many twins the diameter is exact."""
NO_GAP = 1e-9


def matrix(graph: Graph, policy: Mixing, signs: Mapping[str, Signs] | None = None) -> Matrix:
    """Return W, twins in sorted order: one mixing step of all models X is W @ X. signs: of their devices, where they are known.

    In a directed graph a twin hears its in-neighbours, and degrees are in-degrees.
    """
    dense: Matrix = _sparse(graph, policy, signs).toarray()
    return dense


def spectral_gap(weights: Matrix | sp.csr_array) -> float:
    """1 - |lambda_2|, lambda_2 the eigenvalue of second largest modulus; 0 for a disconnected graph, 1 for one twin.

    For symmetric W one mixing step shrinks the disagreement by at least |lambda_2|^2 (Xiao and Boyd 2004). Dense up to
    500 twins; above, Arnoldi iteration on W with its known eigenvector taken out.
    """
    n = weights.shape[0]
    if n == 1:
        return 1.0
    if n <= DENSE:
        return _dense_gap(weights if isinstance(weights, np.ndarray) else weights.toarray())
    return _sparse_gap(sp.csr_array(weights))


def check(weights: Matrix, names: Sequence[str], *, symmetric: bool = False) -> None:
    """Raise TopologyError E207, naming the row, for a weight that is negative or not finite, a row sum other than 1,
    or, where `symmetric` is asked for, W_ij != W_ji."""
    for name, row in zip(names, weights, strict=True):
        if not np.isfinite(row).all():
            raise TopologyError("E207", f"mixing weights of {name} are not finite")
        if (row < 0).any():
            raise TopologyError("E207", f"mixing weights of {name} are negative: least {row.min():.6g}", fix="weights must be at least 0")
        if abs(row.sum() - 1) > 1e-9:
            raise TopologyError("E207", f"mixing weights of {name} sum to {row.sum():.9g}", fix="each row must sum to 1")
    if symmetric and not _symmetric(weights):
        a, b = divmod(int(np.argmax(np.abs(weights - weights.T))), len(names))
        problem = f"mixing is asymmetric: {names[a]} gives {names[b]} {weights[a, b]:.6g}, gets {weights[b, a]:.6g}"
        raise TopologyError("E207", problem, fix="use mixing: {use: metropolis}")


def facts(graphs: Sequence[Graph], policy: Mixing) -> dict[str, Any]:
    """What is known of the graph before anything trains.

    graphs: the one graph of a static topology, or those of some rounds of a time-varying one: then edges, diameter and
    connectedness are those of their union, degrees those of one round, and the gap is that of the mean of W over these
    rounds (`gap_of` says which). contraction: factor on the disagreement that one mixing step guarantees, None where W
    is not symmetric. diameter is a lower bound above 2,000 twins (`diameter_exact`). notes: E208 where mixing would
    never agree.
    """
    union, rounds = _union(graphs), len(graphs)
    degrees = [degree for graph in graphs for degree in _degrees(graph).values()]
    mean = sp.csr_array(sum((_sparse(graph, policy) for graph in graphs[1:]), start=_sparse(graphs[0], policy)) / rounds)
    gap = spectral_gap(mean)
    connected = nx.is_connected(union)
    notes = [] if gap > NO_GAP else [f"E208 spectral gap {max(gap, 0.0):.1e}: gossip over this graph never agrees"]
    return {
        "twins": union.number_of_nodes(),
        "edges": union.number_of_edges(),
        "connected": connected,
        "diameter": _diameter(union) if connected else None,
        "diameter_exact": union.number_of_nodes() <= EXACT,
        "degree": {"min": min(degrees), "mean": sum(degrees) / len(degrees), "max": max(degrees)},
        "spectral_gap": gap,
        "gap_of": "W" if rounds == 1 else f"the mean of W over {rounds} rounds",
        "contraction": (1 - gap) ** 2 if rounds == 1 and _symmetric(mean) else None,
        "notes": notes,
    }


def _sparse(graph: Graph, policy: Mixing, signs: Mapping[str, Signs] | None = None) -> sp.csr_array:
    """W of devices that show `signs`, sound and equal ones where it says nothing."""
    names = sorted(graph)
    place = {name: position for position, name in enumerate(names)}
    side = {name: Side(degree, (signs or {}).get(name, Signs())) for name, degree in _degrees(graph).items()}
    heard = graph.pred if isinstance(graph, nx.DiGraph) else graph.adj
    rows, columns, values = [], [], []
    for i, name in enumerate(names):
        given = [(place[peer], policy.weight(side[name], side[peer])) for peer in sorted(heard[name])]
        given.append((i, 1.0 - math.fsum(weight for _, weight in given)))
        rows += [i] * len(given)
        columns += [column for column, _ in given]
        values += [weight for _, weight in given]
    return sp.csr_array((values, (rows, columns)), shape=(len(names), len(names)))


def _degrees(graph: Graph) -> dict[str, int]:
    return dict(graph.in_degree) if isinstance(graph, nx.DiGraph) else dict(graph.degree)


def _dense_gap(weights: Matrix) -> float:
    eigenvalues = np.linalg.eigvalsh(weights) if _symmetric(weights) else np.linalg.eigvals(weights)
    return max(0.0, float(1.0 - np.sort(np.abs(eigenvalues))[-2]))


def _sparse_gap(weights: sp.csr_array) -> float:
    n = weights.shape[0]
    start = np.random.Generator(np.random.Philox(key=n)).standard_normal(n)
    common: dict[str, Any] = {"which": "LM", "v0": start, "ncv": min(n, 120), "maxiter": 40 * n, "tol": 1e-10, "return_eigenvectors": False}
    try:
        if _symmetric(weights):
            rest = sla.LinearOperator((n, n), matvec=lambda x: weights @ x - x.mean(), dtype=np.float64)
            moduli = np.abs(sla.eigsh(rest, k=1, **common))
        else:
            moduli = np.sort(np.abs(sla.eigs(weights, k=2, **common)))[:1]
    except sla.ArpackNoConvergence:
        return _dense_gap(weights.toarray())
    return max(0.0, float(1.0 - moduli[0]))


def _symmetric(weights: Any) -> bool:
    return bool(abs(weights - weights.T).max() < 1e-12)


def _union(graphs: Sequence[Graph]) -> Graph:
    union: Graph = nx.Graph()
    for graph in graphs:
        union.add_nodes_from(sorted(graph))
        union.add_edges_from(graph.edges)
    return union


def _diameter(graph: Graph) -> int:
    n = graph.number_of_nodes()
    if graph.number_of_edges() == n * (n - 1) // 2:
        return min(1, n - 1)
    if n > EXACT:
        return int(nx.approximation.diameter(graph, seed=0))
    adjacency = nx.to_scipy_sparse_array(graph, weight=None, format="csr")
    return int(csgraph.shortest_path(adjacency, unweighted=True).max())
