"""What torch 2.13's HistogramObserver chooses on long tails in many batches.

Run by hand: ``python -m tests.golden.make_histogram_tails``. The suite reads the committed result.
"""

import json
import warnings
from pathlib import Path

import torch
from torch.ao.quantization import HistogramObserver

from tests.golden.histogram_tails import DRAWS, FORMS, batches, checksum, chosen

TARGET = Path(__file__).with_name("histogram_tails.json")


def main() -> None:
    warnings.simplefilter("ignore")
    found = {}
    for name in DRAWS:
        data = batches(name)
        found[name] = {"crc32": checksum(data)}
        for form in FORMS:
            found[name][form] = chosen(torch, HistogramObserver, form, data)
    TARGET.write_text(json.dumps({"torch": torch.__version__, "tensors": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
