"""Two machines that read a store in several files; each has a cache of its own.

Run as a program: it starts a Ray of its own, beside that of the other tests.
Prints as JSON what each machine fetched, after each step.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vesselflow.feed.batches import ArraySamples, load_images, load_samples
from vesselflow.feed.blocks import sample_table
from vesselflow.feed.ray_resident import materialise
from vesselflow.feed.ray_shared import SharedStore, StoreDesk, desk_files
from vesselflow.feed.ray_stream import read_index
from vesselflow.feed.view import View
from vesselflow.stores.store import Store

VIEW = View(working_size_px=None, patch=32, stride=None, min_fov=0.0, divisor=1)


def samples(held: ArraySamples) -> bytes:
    """Every bit of all samples."""
    batch = held.gather(np.arange(held.n))
    arrays = (batch.image, batch.target, batch.fov, batch.centre, batch.scale, batch.source)
    return b"".join(array.tobytes() for array in arrays)


def main(folder: Path, index: Path, whole: Path) -> None:
    names = ("driver", "one", "two")
    caches = {name: folder / name for name in names}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": False,
            "env_vars": {"VESSELFLOW_CACHE": str(caches["driver"])},
        },
    )
    nodes = {
        name: cluster.add_node(
            num_cpus=1,
            object_store_memory=100 * 2**20,
            env_vars={"VESSELFLOW_CACHE": str(caches[name])},
        )
        for name in names[1:]
    }
    ray.init(address=cluster.address, namespace="sharded", log_to_driver=False)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    desk = ray.remote(StoreDesk).options(name="desk", num_cpus=0, scheduling_strategy=here)
    actor = desk.remote(desk_files(index))
    with Store.open(index) as store:
        shared = SharedStore(
            "/nowhere/i.shards.json", store.digest, "", ("desk", "sharded"), store.seal
        )
        shards = store.shards
    said: dict[str, object] = {}

    def fetched() -> dict[str, list[int]]:
        return {
            name: [
                place
                for place, shard in enumerate(shards)
                if (caches[name] / "stores" / f"{shard.digest}.h5").exists()
            ]
            for name in names
        }

    memory = samples(load_samples(whole, VIEW))
    resident = materialise(shared, VIEW)
    said["samples"] = fetched()
    said["equal"] = samples(resident.open()) == memory
    # Whole images, and the index of a stream: read where the files are.
    images = materialise(shared, VIEW, "images").open()
    said["images"] = [one.image.tobytes() for one in images] == [
        one.image.tobytes() for one in load_images(whole, VIEW)
    ]
    table, _ = sample_table(ray.get(list(read_index(shared, VIEW))))
    said["index"] = table.source.tolist() == load_samples(whole, VIEW).source.tolist()
    said["all"] = fetched()
    # A machine goes, and with it its blocks and its files: the other one makes them again.
    del images
    cluster.remove_node(nodes["two"])
    said["again"] = samples(resident.open()) == memory
    ray.kill(actor)
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps(said))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
