"""Flower: FedAvg in its simulation engine on Ray, one processor per client app; clients train, then score what the server averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks import floor
from benchmarks.nets import Normalised, build
from benchmarks.peers.common import Study, asked, now, studies, tell
from benchmarks.workload import LR, Workload


class Timed(FedAvg):
    """FedAvg that notes when each round is scored."""

    walls: list[float]

    def aggregate_evaluate(self, *args: Any) -> Any:
        found = super().aggregate_evaluate(*args)
        if not found:
            raise RuntimeError("no client scored its model")
        self.walls.append(now())
        return found


def client_app(archive: Path, work: Workload) -> ClientApp:
    app = ClientApp()

    def received(message: Message, context: Context) -> tuple[Normalised, Study, Study]:
        shards, test = studies(archive, work)
        net = build(work.model)
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        return net, shards[int(context.node_config["partition-id"])], test

    @app.train()
    def train(message: Message, context: Context) -> Message:
        net, (images, labels), _ = received(message, context)
        sgd = torch.optim.SGD(net.parameters(), lr=LR)
        floor.train(net, sgd, images, labels, np.random.permutation(work.images), work.batch, "fp32")
        content = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": work.images})}
        return Message(content=RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        net, _, (images, labels) = received(message, context)
        metrics = {"accuracy": floor.score(net, images, labels, "fp32"), "num-examples": work.images}
        return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)

    return app


def main() -> None:
    """Run the workload and print its walls."""
    work, archive = asked()
    walls: list[float] = []
    server_app = ServerApp()

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = Timed(fraction_train=1.0, fraction_evaluate=1.0, min_available_nodes=work.twins)
        strategy.walls = walls
        walls.append(now())
        strategy.start(grid=grid, initial_arrays=ArrayRecord(build(work.model).state_dict()), num_rounds=work.rounds)

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app=server_app, client_app=client_app(archive, work), num_supernodes=work.twins, backend_config=resources)
    tell("flwr", "FedAvg, simulation on Ray", walls)


if __name__ == "__main__":
    main()
