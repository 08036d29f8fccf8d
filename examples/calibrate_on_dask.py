"""Calibration shared among the workers of a Dask cluster, merged into one Lab.

Statistics are integers, extrema and counts by bin, so that they merge exactly: whatever the number
of workers, the result is that of one process, as long as all compute with as many threads and the
shares are merged in the order of the data: moving averages and questions about drift depend on it.
"""

import math

import torch
from distributed import Client, LocalCluster
from torch import Tensor, nn

import qlab
import sample_models
from examples.digits import accuracy, data
from qlab.analysis.calibration import Calibration

WORKERS, THREADS = 2, 1


def calibrated(model: nn.Module, batches: list[Tensor]) -> Calibration:
    """What calibration sees of some of the data; runs on a worker."""
    torch.set_num_threads(THREADS)
    return qlab.Lab(model, batches[0][:1], batches).calibrate()


def main() -> None:
    images, test = data()
    model = sample_models.load("residual").model
    batches = list(images.split(16))
    # This process sees the first batch, and the workers the others: each some that follow another.
    share = math.ceil((len(batches) - 1) / WORKERS)
    shares = [batches[i : i + share] for i in range(1, len(batches), share)]
    torch.set_num_threads(THREADS)
    lab = qlab.Lab(model, images[:1], batches[:1])
    cluster = LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    )
    with cluster, Client(cluster) as client:
        for part in client.gather(client.map(calibrated, [model] * WORKERS, shares)):
            lab.merge(part)

    merged, alone = lab.calibrated, calibrated(model, batches)
    print(f"{merged.samples} images, {len(merged.statistics)} tensors, two workers")
    print(f"identical to one process: {merged.statistics == alone.statistics}")
    print(f"float32  {accuracy(model, test):.1f} %")
    print(f"int8     {accuracy(lab.convert(), test):.1f} %")


if __name__ == "__main__":
    main()
