"""Makes fake_quantize.npz: outputs and gradients of torch 2.13's fake quantization.

Run once: ``python -m tests.golden.make_fake_quantize``. A case has ``x``, ``scale``,
``zero_point``, ``y`` and ``gradient`` of ``y.sum()``.
"""

from __future__ import annotations

import torch

from tests.golden.make_writer import Writer, integer


def main() -> None:
    torch.manual_seed(1)
    writer = Writer("fake_quantize")
    for trial in range(40):
        low, high = ((0, 255), (-128, 127), (0, 15), (-8, 7))[trial % 4]
        x = torch.randn(4, 5, 12) * 3
        scale = torch.tensor(2.0**-4 if trial % 3 == 0 else float(torch.rand(()) * 0.1 + 1e-3))
        if trial % 3 == 0:
            x = torch.round(x * 32) / 32
        axis = None if trial % 2 else trial // 2 % 3
        if axis is not None:
            scale = scale * 2.0 ** torch.randint(-1, 2, (x.shape[axis],))
        zero_point = torch.tensor(integer(low, high), dtype=torch.int32).expand(scale.shape)
        x.requires_grad_()
        if axis is None:
            y = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, low, high)
        else:
            y = torch.fake_quantize_per_channel_affine(x, scale, zero_point, axis, low, high)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        tensors = {"x": x, "scale": scale, "zero_point": zero_point, "y": y, "gradient": gradient}
        writer.add("fake_quantize", tensors, quant_min=low, quant_max=high, axis=axis)
    writer.write()


if __name__ == "__main__":
    main()
