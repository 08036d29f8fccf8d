import torch
from torch import nn

import qlab
import sample_models


class TestLayerInputs:
    def test_layers_name_what_feeds_them(self):
        sample = sample_models.load("residual")
        lab = qlab.Lab(sample.model, sample.example_inputs, sample.calibration(2))
        assert lab.layer("stem.conv").inputs == ("input",)
        assert lab.layer("block1.add").inputs == ("block1.conv2", "stem.conv")

    def test_plain_values_are_passed_through(self):
        class Sized(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(4, 4)

            def forward(self, x):
                y = self.fc(x)
                return torch.relu(y).reshape(x.shape[0], -1)

        lab = qlab.Lab(Sized(), torch.randn(2, 4), torch.randn(8, 4))
        assert lab.layers[-1].inputs == ("fc", "input")
