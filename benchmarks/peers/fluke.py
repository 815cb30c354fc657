"""fluke: FedAvg in one process; every client scores its model after its fit."""

from __future__ import annotations

import torch
from fluke import DDict, FlukeENV
from fluke.algorithms.fedavg import FedAVG
from fluke.data import DataSplitter, DummyDataContainer, FastDataLoader
from fluke.evaluation import ClassificationEval
from fluke.utils import FederationObserver
from torch import Tensor

from benchmarks.nets import build
from benchmarks.peers.common import asked, now, studies, tell
from benchmarks.workload import CLASSES, LR, SCORED_TOGETHER


class Rounds(FederationObserver):
    """Notes when each round ends."""

    def __init__(self) -> None:
        self.walls = [now()]

    def end_round(self, round: int) -> None:
        self.walls.append(now())


def loader(images: Tensor, labels: Tensor, batch: int, *, shuffle: bool) -> FastDataLoader:
    return FastDataLoader(images, labels, num_labels=CLASSES, batch_size=batch, shuffle=shuffle)


def main() -> None:
    """Run the workload and print its walls."""
    work, archive = asked()
    shards, test = studies(archive, work)
    environment = FlukeENV()
    environment.set_seed(1)
    environment.set_device("cpu")
    environment.set_eval_cfg(pre_fit=False, post_fit=True, locals=False, server=False)
    environment.set_evaluator(ClassificationEval(eval_every=1, n_classes=CLASSES))
    data = DummyDataContainer(
        [loader(*shard, work.batch, shuffle=True) for shard in shards],
        [loader(*test, SCORED_TOGETHER, shuffle=False) for _ in shards],
        None,
        CLASSES,
    )
    client = {"batch_size": work.batch, "local_epochs": 1, "loss": torch.nn.CrossEntropyLoss, "optimizer": {"lr": LR}, "scheduler": None}
    recipe = DDict(client=DDict(**client), server=DDict(weighted=True), model=build(work.model))
    algorithm = FedAVG(work.twins, DataSplitter(data), recipe)
    rounds = Rounds()
    algorithm.set_callbacks(rounds)
    algorithm.run(n_rounds=work.rounds, eligible_perc=1.0, finalize=False)
    tell("fluke-fl", "FedAvg, one process", rounds.walls)


if __name__ == "__main__":
    main()
