"""The table of names: complete, in qlab's own words, true to registry and kernels."""

import inspect

import pytest
import torch

import qlab
import qlab.nn.quantized as nnq
import qlab.nn.quantized.dynamic as nnqd
from qlab.coverage import Name, names, table
from qlab.dtypes import QDType, all_dtypes
from qlab.ops.kernels import kernels_of
from qlab.quantization import FusedMovingAvgObsFakeQuantize


def row(path: str):
    place, _, name = path.rpartition(".")
    frame = table()
    (found,) = frame[(frame["place"] == place) & (frame["name"] == name)].to_dict("records")
    return found


def test_it_has_every_name_once():
    frame = table()
    assert len(frame) == len(names()) == 201
    assert not frame.duplicated(["place", "name"]).any()
    assert not frame.map(str.strip).eq("").any().any()


@pytest.mark.parametrize("name", names(), ids=lambda name: name.path)
def test_every_name_is_documented_in_qlabs_own_words(name: Name):
    found, shown = name.resolve(), row(name.path)
    assert 8 < len(shown["does"]) < 160, shown["does"]
    if inspect.isclass(found) or inspect.isfunction(found):
        assert found.__module__.startswith("qlab") and found.__doc__
    torchs = getattr(torch.Tensor, name.name, None) if name.place == "qlab.QTensor" else None
    assert torchs is None or (torchs.__doc__ or "-").strip() != shown["documentation"]


def test_data_types_and_devices_follow_registry_and_kernels():
    linear = row("qlab.nn.quantized.Linear")
    assert linear["data types"].startswith("uint2–8, int2–8; simulated: uint16")
    assert "onednn" in kernels_of("linear") and "oneDNN" in linear["devices"]
    assert row("qlab.nn.quantized.LayerNorm")["devices"] == "any"
    assert row("qlab.quint8")["does"] == "8-bit unsigned codes, 0 to 255"
    assert row("qlab.nn.qat.Linear")["data types"] == "floating point"
    histogram = row("qlab.quantization.observer.HistogramObserver")
    assert histogram["kind"] == "observer" and "uint2–8" in histogram["data types"]
    default = row("qlab.quantization.qconfig.default_qconfig")
    assert default["kind"] == "qconfig" and "int8 symmetric per tensor" in default["does"]
    assert row("qlab.QTensor.view")["kind"] == "tensor method"
    every = "uint2–8, int2–8, uint16, int16, int32, float8_e4m3fn, float8_e5m2"
    frame = table()
    methods = frame[frame["kind"] == "tensor method"]
    assert len(methods) == 27 and set(methods["data types"]) == {every}
    assert row("qlab.quantized_batch_norm")["data types"].startswith("uint2–8")
    assert row("qlab.quantization.prepare")["data types"] == "as the qconfigs ask"
    assert row("qlab.quantization.quantize_fx.fuse_fx")["data types"] == "as the qconfigs ask"
    assert row("qlab.per_tensor_affine")["data types"] == row("qlab.qint8")["devices"] == "any"
    elu, celu = (row(f"qlab.nn.quantized.functional.{name}") for name in ("elu", "celu"))
    assert celu["data types"] == elu["data types"] != "any"
    assert nnq.Linear.op.__name__ == "linear"


def test_it_says_what_constructors_take():
    """By hand: names whose line was once untrue."""
    every = "uint2–8, int2–8, uint16, int16, int32, float8_e4m3fn, float8_e5m2"
    fused = row("qlab.quantization.fake_quantize.FusedMovingAvgObsFakeQuantize")
    assert fused["data types"] == every
    asked = {"dtype": qlab.qint8, "quant_min": -128, "quant_max": 127}
    assert FusedMovingAvgObsFakeQuantize(**asked).dtype == qlab.qint8
    assert row("qlab.quantization.quantize")["devices"] == "any"
    for name in ("Linear", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"):
        shown = row(f"qlab.nn.quantized.dynamic.{name}")["data types"]
        assert shown == f"weights: {every}, float16"
    x = torch.randn(3, 4)
    for dtype in (*all_dtypes(), torch.float16):
        assert nnqd.Linear(4, 2, dtype=dtype)(x).shape == (3, 2)
        assert nnqd.GRUCell(4, 2, dtype=dtype)(x).shape == (3, 2)
    assert row("qlab.nn.quantizable.LSTM")["data types"] == "floating point"


_ARGUMENTS: dict[str, tuple[object, ...]] = {
    "as_strided": ((2,), (1,)),
    "expand": (2, 3, 4),
    "resize_": ((2, 2),),
    "select": (0, 1),
    "topk": (2,),
    "view": (-1,),
    **dict.fromkeys(("ne", "eq", "ge", "le", "gt", "lt"), (0.0,)),
}


@pytest.mark.parametrize("dtype", all_dtypes(), ids=str)
def test_tensor_methods_take_every_data_type_that_the_table_names(dtype: QDType):
    x = qlab.quantize_per_tensor(torch.linspace(0, 1, 12).reshape(3, 4), 0.25, 0, dtype)
    for name in names():
        if name.place != "qlab.QTensor" or name.name.startswith("q_per_channel"):
            continue
        given = (x.clone(),) if name.name in ("copy_", "equal") else _ARGUMENTS.get(name.name, ())
        assert getattr(x.clone(), name.name)(*given) is not None


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError):
        Name("qlab.quantization", "nonsense", "").resolve()
