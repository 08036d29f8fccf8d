"""What torch 2.13's HistogramObserver chooses on a corpus of tensors, at 4 and 8 bits.

Run by hand: ``python -m tests.golden.make_histogram_corpus``. The suite reads the committed result.
"""

import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.ao.quantization import HistogramObserver

from tests.golden.histogram_corpus import activations, drawn

TARGET = Path(__file__).with_name("histogram_corpus.safetensors")
BATCHES = 4


def main() -> None:
    warnings.simplefilter("ignore")
    tensors = {}
    for name, x in (*drawn(), *activations()):
        tensors[f"{name}|x"] = x.contiguous()
        for bits in (4, 8):
            observer = HistogramObserver(quant_min=0, quant_max=2**bits - 1)
            for batch in x.float().chunk(BATCHES):
                observer(batch)
            scale, zero_point = observer.calculate_qparams()
            tensors[f"{name}|{bits}"] = torch.stack([scale[0].double(), zero_point[0].double()])
    save_file(tensors, TARGET, metadata={"torch": torch.__version__})


if __name__ == "__main__":
    main()
