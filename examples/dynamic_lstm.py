"""Dynamic quantization of an LSTM: weights once, inputs in every call, no calibration."""

import torch
from torch import nn

import sample_models
from examples.digits import accuracy, data, kilobytes
from qlab import qint8
from qlab.quantization import quantize_dynamic


class RowReader(nn.Module):
    """Reads an 8 by 8 digit row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 64, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 1, 8, 8) → (N, 10) logits."""
        states, _ = self.lstm(images.squeeze(1))
        return self.head(states[:, -1])


torch.manual_seed(0)
calibration, test = data()
teacher = sample_models.load("mlp").model  # its answers serve as labels
model = RowReader()
optimizer = torch.optim.Adam(model.parameters(), 0.01)
for _ in range(150):
    loss = nn.functional.cross_entropy(model(calibration), teacher(calibration).argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()
quantized = quantize_dynamic(model, {nn.LSTM, nn.Linear}, dtype=qint8)

print(f"float32  {accuracy(model, test):.1f} %  {kilobytes(model):.0f} kB")
print(f"int8     {accuracy(quantized, test):.1f} %  {kilobytes(quantized):.0f} kB")
