"""p2pfl: gossip between nodes of one process over its in-memory protocol, fits on Ray; every node votes for all as trainers."""

from __future__ import annotations

import os
import time
from typing import Any

import lightning
import torch
from datasets import Dataset, DatasetDict
from p2pfl.communication.protocols.protobuff.memory import MemoryCommunicationProtocol
from p2pfl.learning.dataset.p2pfl_dataset import P2PFLDataset
from p2pfl.learning.frameworks.pytorch.lightning_model import LightningModel
from p2pfl.node import Node
from p2pfl.utils.topologies import TopologyFactory, TopologyType
from p2pfl.utils.utils import set_standalone_settings, wait_convergence
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.nets import build
from benchmarks.peers.common import Study, asked, now, studies, tell
from benchmarks.workload import LR

Batch = dict[str, Tensor]


class Lesson(lightning.LightningModule):
    """The network as Lightning wants it."""

    def __init__(self, model: str) -> None:
        super().__init__()
        torch.set_num_threads(1)
        self.net = build(model)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        return cross_entropy(self.net(batch["image"]), batch["label"])

    def test_step(self, batch: Batch, index: int) -> None:
        self.log("test_metric", (self.net(batch["image"]).argmax(1) == batch["label"]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LR)


def dataset(shard: Study, test: Study, batch: int) -> P2PFLDataset:
    parts = {
        part: Dataset.from_dict({"image": images.numpy(), "label": labels.numpy()}).with_format("torch")
        for part, (images, labels) in {"train": shard, "test": test}.items()
    }
    return P2PFLDataset(DatasetDict(parts), batch_size=batch)


def main() -> None:
    """Run the workload and print its walls."""
    work, archive = asked()
    shards, test = studies(archive, work)
    set_standalone_settings()
    nodes: list[Any] = []
    for k, shard in enumerate(shards):
        model = LightningModel(Lesson(work.model))
        nodes.append(Node(model, dataset(shard, test, work.batch), protocol=MemoryCommunicationProtocol(), addr=f"node-{k}"))
        nodes[-1].start()
    try:
        TopologyFactory.connect_nodes(TopologyFactory.generate_matrix(TopologyType.RING, work.twins), nodes)
        wait_convergence(nodes, work.twins - 1, only_direct=False, wait=60)
        walls = [now()]
        nodes[0].set_start_learning(rounds=work.rounds, epochs=1, trainset_size=work.twins)
        while len(walls) <= work.rounds:
            last = len(walls) == work.rounds  # it is over when everybody has scored its model
            if all(node.learning_workflow.finished or (not last and (node.state.round or 0) >= len(walls)) for node in nodes):
                walls.append(now())
            time.sleep(0.01)
    finally:
        for node in nodes:
            node.stop()
    tell("p2pfl", "gossip on a ring, fits on Ray", walls)
    os._exit(0)  # threads that it leaves behind may crash the interpreter while it ends (seen with 0.4.4)


if __name__ == "__main__":
    main()
