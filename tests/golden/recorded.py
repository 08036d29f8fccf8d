"""Models of the reference as data, and stand-ins that answer as the models did.

A stand-in has the class name, the attributes and the answers (`weight()`, `unpack()`, …) of the
object that was recorded, and none of its code: enough to be read, not to be run.
"""

from __future__ import annotations

import importlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, fx, nn

_THEIRS = "torch.ao."
_ANSWERS = ("weight", "bias", "get_weight", "get_bias")
_PACKED = ("stride", "padding", "dilation", "groups", "output_padding")


class Quantized:
    """Answers as a quantized tensor."""

    is_quantized = True

    def __init__(self, told: dict[str, Any], tensors: Any) -> None:
        self.dtype, self.shape = told["dtype"], tuple(told["shape"])
        self._told, self._tensors = told, tensors

    def qscheme(self) -> str:
        return self._told["qscheme"]

    def int_repr(self) -> Tensor:
        return self._tensors(self._told["codes"])

    def q_scale(self) -> float:
        return self._told["scale"]

    def q_zero_point(self) -> int:
        return self._told["zero_point"]

    def q_per_channel_scales(self) -> Tensor:
        return self._tensors(self._told["scales"])

    def q_per_channel_zero_points(self) -> Tensor:
        return self._tensors(self._told["zero_points"])

    def q_per_channel_axis(self) -> int:
        return self._told["axis"]


class Named:
    """Stands for an operator, which nobody calls."""

    def __init__(self, text: str, name: str, module: str) -> None:
        self._text, self.__name__, self.__module__ = text, name, module

    def __str__(self) -> str:
        return self._text

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"{self._text} is only a name here")


class Packed:
    """Answers as prepacked parameters."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told
        for name in _PACKED:
            if name in told:
                setattr(self, name, lambda value=told[name]: value)

    def unpack(self) -> tuple[Any, Any]:
        return self._told["weight"], self._told["bias"]


class Recorder:
    """Writes models, inputs and outputs into one file of tensors with JSON beside them."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.cases: dict[str, Any] = {}

    def add(self, name: str, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """Records one model with an input and the output that it gave."""
        self.cases[name] = {"model": self.value(model), "x": self.value(x), "y": self.value(y)}

    def save(self, path: Path) -> None:
        """Writes the file."""
        text = json.dumps(self.cases, separators=(",", ":"))
        save_file(self.tensors, path, metadata={"torch": torch.__version__, "cases": text})

    def value(self, value: Any) -> Any:
        """A value as JSON; raises `TypeError` for what has no such form."""
        match value:
            case None | bool() | int() | float() | str():
                return value
            case nn.Module():
                return {"module": self.module(value)}
            case Tensor():
                return (
                    {"quantized": self.quantized(value)}
                    if value.is_quantized
                    else self.stored(value)
                )
            case fx.Node():
                return {"node": value.name}
            case torch.dtype():
                return {"dtype": str(value)}
            case list():
                return [self.value(item) for item in value]
            case tuple():
                return {"tuple": [self.value(item) for item in value]}
            case slice():
                return {"slice": [value.start, value.stop, value.step]}
            case dict():
                return {"dict": {str(key): self.value(item) for key, item in value.items()}}
        if hasattr(value, "unpack"):
            weight, bias = value.unpack()
            told = {"weight": self.value(weight), "bias": self.value(bias)}
            for name in _PACKED:
                if weight.dim() > 2:
                    told[name] = self.value(getattr(value, name)())
            return {"packed": told}
        raise TypeError(f"cannot be recorded: {value!r}")

    def stored(self, tensor: Tensor) -> dict[str, str]:
        key = str(len(self.tensors))
        self.tensors[key] = tensor.detach().clone().contiguous()
        return {"tensor": key}

    def quantized(self, tensor: Tensor) -> dict[str, Any]:
        scheme = str(tensor.qscheme())
        told = {
            "dtype": str(tensor.dtype), "shape": list(tensor.shape), "qscheme": scheme,
            "codes": self.stored(tensor.int_repr())["tensor"],
        }  # fmt: skip
        if scheme == "torch.per_tensor_affine":
            return told | {"scale": tensor.q_scale(), "zero_point": tensor.q_zero_point()}
        return told | {
            "scales": self.stored(tensor.q_per_channel_scales())["tensor"],
            "zero_points": self.stored(tensor.q_per_channel_zero_points())["tensor"],
            "axis": tensor.q_per_channel_axis(),
        }

    def module(self, module: nn.Module) -> dict[str, Any]:
        kind = type(module)
        told: dict[str, Any] = {
            "class": [kind.__module__, kind.__name__],
            "attributes": {},
            "children": {n: self.module(m) for n, m in module.named_children()},
            "tensors": {},
            "answers": {},
        }
        if isinstance(module, fx.GraphModule):
            told["class"] = ["torch.fx", "GraphModule"]
            told["graph"] = [self.node(node, module) for node in module.graph.nodes]
        for name, value in vars(module).items():
            if name[:1] != "_" or name == "_qkv_same_embed_dim":
                try:
                    told["attributes"][name] = self.value(value)
                except TypeError:
                    continue
        for group in (module._parameters, module._buffers):
            for name, value in group.items():
                told["tensors"][name] = self.value(value)
        if kind.__module__.startswith(_THEIRS):
            for name in _ANSWERS:
                if callable(getattr(module, name, None)) and name not in vars(module):
                    told["answers"][name] = self.value(getattr(module, name)())
        return told

    def node(self, node: fx.Node, module: fx.GraphModule) -> dict[str, Any]:
        told = {"op": node.op, "name": node.name, "args": self.value(node.args)}
        told["kwargs"] = self.value(dict(node.kwargs))
        if node.op == "call_function":
            target = node.target
            told["target"] = [str(target), getattr(target, "__name__", ""), str(target.__module__)]
        else:
            told["target"] = str(node.target)
        if node.op == "get_attr":
            value = module
            for part in str(node.target).split("."):
                value = getattr(value, part)
            told["value"] = self.value(value)
        return told


class Recording:
    """Reads what a `Recorder` wrote."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            self.cases: dict[str, Any] = json.loads(file.metadata()["cases"])
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def case(self, name: str) -> tuple[nn.Module, Tensor, Tensor]:
        """The stand-in of a model, an input and the output that the model gave."""
        told = self.cases[name]
        return self.value(told["model"]), self.value(told["x"]), self.value(told["y"])

    def tensor(self, key: str) -> Tensor:
        return self.tensors[key].clone()

    def value(self, told: Any, nodes: dict[str, fx.Node] | None = None) -> Any:
        match told:
            case list():
                return [self.value(item, nodes) for item in told]
            case {"tuple": items}:
                return tuple(self.value(item, nodes) for item in items)
            case {"dict": items}:
                return {key: self.value(item, nodes) for key, item in items.items()}
            case {"slice": ends}:
                return slice(*ends)
            case {"tensor": key}:
                return self.tensor(key)
            case {"quantized": given}:
                return Quantized(given, self.tensor)
            case {"node": name}:
                assert nodes is not None
                return nodes[name]
            case {"dtype": text}:
                return (
                    vars(torch).get(text.removeprefix("torch."), text) if "q" not in text else text
                )
            case {"packed": parts}:
                return Packed({name: self.value(part) for name, part in parts.items()})
            case {"module": given}:
                return self.module(given)
        return told

    def module(self, told: dict[str, Any]) -> nn.Module:
        home, name = told["class"]
        children = {key: self.module(child) for key, child in told["children"].items()}
        if "graph" in told:
            return self.graph(told, children)
        if home.startswith(_THEIRS):
            kind = type(name, (nn.Module,), {"__module__": home})
        else:
            kind = getattr(importlib.import_module(home), name)
        made = kind.__new__(kind)
        nn.Module.__init__(made)
        for key, value in told["attributes"].items():
            vars(made)[key] = self.value(value)
        for key, value in told["tensors"].items():
            restored = self.value(value)
            if isinstance(restored, Quantized):
                vars(made)[key] = restored
            else:
                made.register_buffer(key, restored)
        made._modules.update(children)
        for key, value in told["answers"].items():
            vars(made)[key] = partial(_identity, self.value(value))
        return made

    def graph(self, told: dict[str, Any], children: dict[str, nn.Module]) -> fx.GraphModule:
        graph, nodes = fx.Graph(), {}
        made = fx.GraphModule(nn.Module(), fx.Graph())
        made._modules.update(children)
        for item in told["graph"]:
            target = item["target"]
            if item["op"] == "call_function":
                target = _function(*target)
            if item["op"] == "get_attr":
                owner, _, leaf = target.rpartition(".")
                vars(made.get_submodule(owner))[leaf] = self.value(item["value"])
            args, kwargs = self.value(item["args"], nodes), self.value(item["kwargs"], nodes)
            nodes[item["name"]] = graph.create_node(item["op"], target, args, kwargs, item["name"])
        made._graph = graph
        return made.eval()


def _identity(value: Any) -> Any:
    return value


def _function(text: str, name: str, module: str) -> Any:
    if text.startswith("quantized.") or name == "quantize_per_tensor":
        return Named(text, name, module)
    for home in (module, "torch", "torch.nn.functional", "operator"):
        if hasattr(importlib.import_module(home), name):
            return getattr(importlib.import_module(home), name)
    raise AssertionError(f"no function {text}")
