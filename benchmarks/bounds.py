"""What bounds the times of `benchmarks.inference`, in words, from the numbers that it measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"


def networks(
    times: Mapping[str, Mapping[str, float]],
    alone: str,
    empty: float,
    convolutions: Mapping[str, int],
) -> str:
    """Of ResNet and MobileNetV2.

    Args:
        times: Median seconds by network and candidate.
        alone: The candidate that runs a network's layers and nothing else.
        empty: Seconds of a call of oneDNN that has next to nothing to compute.
        convolutions: How many of MobileNetV2's each kernel runs.
    """
    resnet, mobile = times["ResNet"], times["MobileNetV2"]
    goal, calls = 0.9 * resnet["torch.ao"], convolutions.get("onednn", 0)
    verdict = (
        "so only other convolutions could reach it"
        if resnet[alone] > goal
        else "so it is what lies between them that misses it, where it is missed"
    )
    overhead, gap = calls * empty, mobile["qlab"] - mobile["ONNX Runtime"]
    around, kernels = mobile["qlab"] - mobile[alone], mobile[alone] - overhead
    return (
        f"What bounds ResNet: its convolutions and linear layers alone take {ms(resnet[alone])}, "
        f"and 0.9 × torch.ao's time is {ms(goal)}, {verdict}. What bounds MobileNetV2: it takes "
        f"{ms(gap)} more than ONNX Runtime. PyTorch's `onednn.qconv_pointwise` makes a primitive "
        f"anew in every call, torch.ao and ONNX Runtime keep theirs: one that has next to nothing "
        f"to compute takes {1e6 * empty:.0f} µs here, {calls} such calls {ms(overhead)}. What lies "
        f"around the layers takes {ms(around)}. The other {ms(kernels)} are computing, by oneDNN's "
        f"kernels and {convolutions.get('compiled', 0)} depthwise convolutions in a compiled loop; "
        f"ONNX Runtime's whole network takes {ms(mobile['ONNX Runtime'])}. Such a loop is chosen "
        "where one thread of it beats oneDNN: up to 700,000 products (450,000 against two threads)."
    )


def layers(
    lstm: Mapping[str, float],
    steps: Mapping[str, Sequence[float]],
    profile: Sequence[Sequence[str]],
) -> str:
    """Of the linear layer and the LSTM.

    Args:
        lstm: Median seconds by candidate.
        steps: Least seconds of quantizing, the layer and dequantizing, by candidate.
        profile: Operators of the LSTM, their calls and times.
    """
    ours, theirs = (" / ".join(map(ms, steps[name])) for name in ("qlab", "torch.ao"))
    operators = ", ".join(f"{name} {time}" for name, _, time, _ in profile)
    return (
        "What bounds the linear layer: it is one call of oneDNN, as torch.ao's is; quantizing, the "
        f"layer and dequantizing take {ours}, torch.ao's {theirs}, each at its fastest. What "
        f"bounds the LSTM: it takes {ms(lstm['qlab'])}, torch.ao's {ms(lstm['torch.ao'])}; under "
        f"the profiler {operators}. Each of its 32 steps is a product, PyTorch's sigmoid and two "
        "of its tanh and four compiled loops, eight calls from Python; torch.ao's steps run inside "
        "one C++ operator."
    )


def first_calls(seconds: Sequence[float]) -> str:
    """Of calls that come first: in a process, of a network in a process that ran another, later."""
    process, network, later = map(ms, seconds)
    return (
        f"The first call of a converted MobileNetV2 takes {process} in a new process, which loads "
        f"its compiled loops (Numba), {network} in one that has run another network, where layers "
        f"are only bound to their shapes, and later ones {later}."
    )
