"""The table of operators: float class, fused class, functions, methods, integer module."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from qlab.nn import functions, lift, stubs
from qlab.nn import intrinsic as nni
from qlab.nn import qat as nnqat
from qlab.nn import quantizable as nnqa
from qlab.nn import quantized as nnq
from qlab.nn.intrinsic import qat as nniqat
from qlab.nn.intrinsic import quantized as nniq
from qlab.nn.intrinsic.quantized import dynamic as nniqd
from qlab.nn.qat import dynamic as nnqatd
from qlab.nn.quantized import dynamic as nnqd
from qlab.nn.quantized import reference as nnqr
from qlab.registry.rows import FLOAT, SHARED, SIGNED_UNIT_INTERVAL, UNIT_INTERVAL, Row


def _pool(
    name: str,
    module: type[nn.Module],
    static: type[nnq.QuantizedModule],
    lifter: Callable[..., lift.Lifter],
    *functions: Callable[..., Any],
) -> Row:
    return Row(
        name,
        modules=(module,),
        functions=functions,
        lift=lifter(module),
        static=static,
        output=SHARED,
    )


def _conv_transpose(
    rank: int,
    static: type[nnq.QuantizedModule],
    reference: type[nnqr.ReferenceQuantizedModule],
    function: Callable[..., Any],
) -> Row:
    module: Any = reference.float_type
    return Row(
        f"conv_transpose{rank}d",
        modules=(module,),
        static=static,
        reference=reference,
        functions=(function,),
        lift=lift.conv_transpose(module),
        parameters=("weight", "bias"),
        weight=True,
        weight_axis=1,
    )


ROWS: tuple[Row, ...] = (
    # Into codes, out of them, and arithmetic that eager models call by name.
    Row("quantize", modules=(stubs.QuantStub,), static=nnq.Quantize),
    Row("dequantize", modules=(stubs.DeQuantStub,), static=nnq.DeQuantize, output=FLOAT),
    Row("float_functional", modules=(nnq.FloatFunctional,), static=nnq.QFunctional),
    # Layers with weights.
    Row(
        "linear",
        modules=(nn.Linear, NonDynamicallyQuantizableLinear, nni.LinearBn1d),
        qat=(nnqat.Linear, nniqat.LinearBn1d),
        qat_dynamic=nnqatd.Linear,
        static=nnq.Linear,
        reference=nnqr.Linear,
        dynamic=nnqd.Linear,
        functions=(F.linear,),
        lift=lift.linear,
        parameters=("weight", "bias"),
        weight=True,
    ),
    Row(
        "linear_relu",
        modules=(nni.LinearReLU,),
        qat=(nniqat.LinearReLU,),
        static=nniq.LinearReLU,
        reference=nnqr.Linear,
        dynamic=nniqd.LinearReLU,
        weight=True,
    ),
    Row(
        "embedding",
        modules=(nn.Embedding,),
        qat=(nnqat.Embedding,),
        static=nnq.Embedding,
        reference=nnqr.Embedding,
        output=FLOAT,
        weight=True,
    ),
    Row(
        "embedding_bag",
        modules=(nn.EmbeddingBag,),
        qat=(nnqat.EmbeddingBag,),
        static=nnq.EmbeddingBag,
        reference=nnqr.EmbeddingBag,
        output=FLOAT,
        weight=True,
    ),
    Row(
        "conv1d",
        modules=(nn.Conv1d, nni.ConvBn1d),
        qat=(nnqat.Conv1d, nniqat.ConvBn1d),
        static=nnq.Conv1d,
        reference=nnqr.Conv1d,
        functions=(F.conv1d,),
        lift=lift.conv(nn.Conv1d),
        parameters=("weight", "bias"),
        weight=True,
    ),
    Row(
        "conv2d",
        modules=(nn.Conv2d, nni.ConvBn2d),
        qat=(nnqat.Conv2d, nniqat.ConvBn2d),
        static=nnq.Conv2d,
        reference=nnqr.Conv2d,
        functions=(F.conv2d,),
        lift=lift.conv(nn.Conv2d),
        parameters=("weight", "bias"),
        weight=True,
    ),
    Row(
        "conv3d",
        modules=(nn.Conv3d, nni.ConvBn3d),
        qat=(nnqat.Conv3d, nniqat.ConvBn3d),
        static=nnq.Conv3d,
        reference=nnqr.Conv3d,
        functions=(F.conv3d,),
        lift=lift.conv(nn.Conv3d),
        parameters=("weight", "bias"),
        weight=True,
    ),
    _conv_transpose(1, nnq.ConvTranspose1d, nnqr.ConvTranspose1d, F.conv_transpose1d),
    _conv_transpose(2, nnq.ConvTranspose2d, nnqr.ConvTranspose2d, F.conv_transpose2d),
    _conv_transpose(3, nnq.ConvTranspose3d, nnqr.ConvTranspose3d, F.conv_transpose3d),
    Row(
        "conv_relu1d",
        modules=(nni.ConvReLU1d, nni.ConvBnReLU1d),
        qat=(nniqat.ConvReLU1d, nniqat.ConvBnReLU1d),
        static=nniq.ConvReLU1d,
        reference=nnqr.Conv1d,
        weight=True,
    ),
    Row(
        "conv_relu2d",
        modules=(nni.ConvReLU2d, nni.ConvBnReLU2d),
        qat=(nniqat.ConvReLU2d, nniqat.ConvBnReLU2d),
        static=nniq.ConvReLU2d,
        reference=nnqr.Conv2d,
        weight=True,
    ),
    Row(
        "conv_relu3d",
        modules=(nni.ConvReLU3d, nni.ConvBnReLU3d),
        qat=(nniqat.ConvReLU3d, nniqat.ConvBnReLU3d),
        static=nniq.ConvReLU3d,
        reference=nnqr.Conv3d,
        weight=True,
    ),
    Row(
        "linear_relu6",
        modules=(nni.LinearReLU6,),
        static=nniq.LinearReLU6,
        reference=nnqr.Linear,
        weight=True,
    ),
    Row(
        "conv_relu6_1d",
        modules=(nni.Conv1dReLU6,),
        static=nniq.Conv1dReLU6,
        reference=nnqr.Conv1d,
        weight=True,
    ),
    Row(
        "conv_relu6_2d",
        modules=(nni.Conv2dReLU6,),
        static=nniq.Conv2dReLU6,
        reference=nnqr.Conv2d,
        weight=True,
    ),
    Row(
        "conv_relu6_3d",
        modules=(nni.Conv3dReLU6,),
        static=nniq.Conv3dReLU6,
        reference=nnqr.Conv3d,
        weight=True,
    ),
    Row(
        "linear_leaky_relu",
        modules=(nni.LinearLeakyReLU,),
        static=nniq.LinearLeakyReLU,
        reference=nnqr.Linear,
        weight=True,
    ),
    Row(
        "linear_tanh",
        modules=(nni.LinearTanh,),
        static=nniq.LinearTanh,
        reference=nnqr.Linear,
        weight=True,
    ),
    Row(
        "conv_add2d",
        modules=(nni.ConvAdd2d,),
        static=nniq.ConvAdd2d,
        reference=nnqr.Conv2d,
        weight=True,
    ),
    Row(
        "conv_add_relu2d",
        modules=(nni.ConvAddReLU2d,),
        static=nniq.ConvAddReLU2d,
        reference=nnqr.Conv2d,
        weight=True,
    ),
    # Recurrent layers and cells.
    Row(
        "lstm",
        modules=(nn.LSTM,),
        dynamic=nnqd.LSTM,
        reference=nnqr.LSTM,
        custom=(nnqa.LSTM, nnq.LSTM),
    ),
    Row("gru", modules=(nn.GRU,), dynamic=nnqd.GRU, reference=nnqr.GRU),
    Row("lstm_cell", modules=(nn.LSTMCell,), dynamic=nnqd.LSTMCell, reference=nnqr.LSTMCell),
    Row("gru_cell", modules=(nn.GRUCell,), dynamic=nnqd.GRUCell, reference=nnqr.GRUCell),
    Row("rnn_cell", modules=(nn.RNNCell,), dynamic=nnqd.RNNCell, reference=nnqr.RNNCell),
    Row(
        "multihead_attention",
        modules=(nn.MultiheadAttention,),
        custom=(nnqa.MultiheadAttention, nnq.MultiheadAttention),
    ),
    # Norms.
    Row("batch_norm2d", modules=(nn.BatchNorm2d,), static=nnq.BatchNorm2d),
    Row("batch_norm3d", modules=(nn.BatchNorm3d,), static=nnq.BatchNorm3d),
    Row("bn_relu2d", modules=(nni.BNReLU2d,), static=nniq.BNReLU2d),
    Row("bn_relu3d", modules=(nni.BNReLU3d,), static=nniq.BNReLU3d),
    Row(
        "layer_norm",
        modules=(nn.LayerNorm,),
        static=nnq.LayerNorm,
        functions=(F.layer_norm, torch.layer_norm),
        lift=lift.layer_norm,
        parameters=("weight", "bias"),
    ),
    Row(
        "group_norm",
        modules=(nn.GroupNorm,),
        static=nnq.GroupNorm,
        functions=(F.group_norm,),
        lift=lift.group_norm,
        parameters=("weight", "bias"),
    ),
    Row("instance_norm1d", modules=(nn.InstanceNorm1d,), static=nnq.InstanceNorm1d),
    Row("instance_norm2d", modules=(nn.InstanceNorm2d,), static=nnq.InstanceNorm2d),
    Row("instance_norm3d", modules=(nn.InstanceNorm3d,), static=nnq.InstanceNorm3d),
    # Activations.
    Row(
        "relu",
        modules=(nn.ReLU,),
        static=nnq.ReLU,
        clamps=True,
        functions=(F.relu, torch.relu, torch.relu_),
        methods=("relu", "relu_"),
        lift=lift.module(nn.ReLU),
        output=SHARED,
    ),
    Row(
        "relu6",
        modules=(nn.ReLU6,),
        static=nnq.ReLU6,
        clamps=True,
        functions=(F.relu6,),
        lift=lift.module(nn.ReLU6),
        output=SHARED,
    ),
    Row(
        "hardtanh",
        modules=(nn.Hardtanh,),
        static=nnq.Hardtanh,
        clamps=True,
        functions=(F.hardtanh, F.hardtanh_),
        lift=lift.module(nn.Hardtanh),
        output=SHARED,
    ),
    Row(
        "clamp",
        functions=(torch.clamp, torch.clip),
        methods=("clamp", "clamp_", "clip"),
        lift=lift.clamp,
        output=SHARED,
    ),
    Row(
        "leaky_relu",
        modules=(nn.LeakyReLU,),
        static=nnq.LeakyReLU,
        functions=(F.leaky_relu, F.leaky_relu_),
        lift=lift.module(nn.LeakyReLU),
    ),
    Row(
        "prelu",
        modules=(nn.PReLU,),
        static=nnq.PReLU,
        functions=(F.prelu,),
        lift=lift.prelu,
        parameters=("weight",),
        weight=True,
    ),
    Row(
        "elu",
        modules=(nn.ELU,),
        static=nnq.ELU,
        functions=(F.elu, F.elu_),
        lift=lift.module(nn.ELU),
    ),
    Row(
        "gelu", modules=(nn.GELU,), static=nnq.GELU, functions=(F.gelu,), lift=lift.module(nn.GELU)
    ),
    Row(
        "hardswish",
        modules=(nn.Hardswish,),
        static=nnq.Hardswish,
        functions=(F.hardswish,),
        lift=lift.module(nn.Hardswish),
    ),
    Row(
        "hardsigmoid",
        modules=(nn.Hardsigmoid,),
        static=nnq.Hardsigmoid,
        functions=(F.hardsigmoid,),
        lift=lift.module(nn.Hardsigmoid),
        output=UNIT_INTERVAL,
    ),
    Row(
        "sigmoid",
        modules=(nn.Sigmoid,),
        static=nnq.Sigmoid,
        functions=(torch.sigmoid, F.sigmoid, torch.sigmoid_),
        methods=("sigmoid", "sigmoid_"),
        lift=lift.module(nn.Sigmoid),
        output=UNIT_INTERVAL,
    ),
    Row(
        "tanh",
        modules=(nn.Tanh,),
        static=nnq.Tanh,
        functions=(torch.tanh, F.tanh, torch.tanh_),
        methods=("tanh", "tanh_"),
        lift=lift.module(nn.Tanh),
        output=SIGNED_UNIT_INTERVAL,
    ),
    Row(
        "softmax",
        modules=(nn.Softmax,),
        static=nnq.Softmax,
        functions=(F.softmax, torch.softmax),
        methods=("softmax",),
        lift=lift.softmax,
        output=UNIT_INTERVAL,
    ),
    Row(
        "dropout",
        modules=(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
        static=nnq.Dropout,
        functions=(F.dropout,),
        lift=lift.dropout,
        output=SHARED,
    ),
    # Pooling and resizing.
    _pool("max_pool1d", nn.MaxPool1d, nnq.MaxPool1d, lift.max_pool, F.max_pool1d, torch.max_pool1d),
    _pool("max_pool2d", nn.MaxPool2d, nnq.MaxPool2d, lift.max_pool, F.max_pool2d, torch.max_pool2d),
    _pool("max_pool3d", nn.MaxPool3d, nnq.MaxPool3d, lift.max_pool, F.max_pool3d, torch.max_pool3d),
    _pool(
        "adaptive_max_pool1d",
        nn.AdaptiveMaxPool1d,
        nnq.AdaptiveMaxPool1d,
        lift.adaptive_max_pool,
        F.adaptive_max_pool1d,
        torch.adaptive_max_pool1d,
    ),
    _pool(
        "adaptive_max_pool2d",
        nn.AdaptiveMaxPool2d,
        nnq.AdaptiveMaxPool2d,
        lift.adaptive_max_pool,
        F.adaptive_max_pool2d,
    ),
    _pool(
        "adaptive_max_pool3d",
        nn.AdaptiveMaxPool3d,
        nnq.AdaptiveMaxPool3d,
        lift.adaptive_max_pool,
        F.adaptive_max_pool3d,
    ),
    _pool("avg_pool1d", nn.AvgPool1d, nnq.AvgPool1d, lift.module, F.avg_pool1d),
    _pool("avg_pool2d", nn.AvgPool2d, nnq.AvgPool2d, lift.module, F.avg_pool2d),
    _pool("avg_pool3d", nn.AvgPool3d, nnq.AvgPool3d, lift.module, F.avg_pool3d),
    _pool(
        "adaptive_avg_pool1d",
        nn.AdaptiveAvgPool1d,
        nnq.AdaptiveAvgPool1d,
        lift.module,
        F.adaptive_avg_pool1d,
    ),
    _pool(
        "adaptive_avg_pool2d",
        nn.AdaptiveAvgPool2d,
        nnq.AdaptiveAvgPool2d,
        lift.module,
        F.adaptive_avg_pool2d,
    ),
    _pool(
        "adaptive_avg_pool3d",
        nn.AdaptiveAvgPool3d,
        nnq.AdaptiveAvgPool3d,
        lift.module,
        F.adaptive_avg_pool3d,
    ),
    Row(
        "mean",
        modules=(functions.Mean,),
        static=nnq.Mean,
        functions=(torch.mean,),
        methods=("mean",),
        lift=lift.mean,
        output=SHARED,
    ),
    Row(
        "interpolate",
        modules=(nn.Upsample,),
        static=nnq.Upsample,
        functions=(F.interpolate, F.upsample),
        lift=lift.interpolate,
        output=SHARED,
    ),
    # Arithmetic of several tensors, or of a tensor and a number.
    Row(
        "add",
        modules=(functions.Add,),
        static=nnq.Add,
        functions=(operator.add, operator.iadd, torch.add),
        methods=("add", "add_"),
        lift=lift.add,
    ),
    Row("add_relu", modules=(nni.AddReLU,), static=nniq.AddReLU),
    Row("add_scalar", modules=(functions.AddScalar,), static=nnq.AddScalar),
    Row(
        "sub",
        functions=(operator.sub, operator.isub, torch.sub),
        methods=("sub", "sub_"),
        lift=lift.sub,
    ),
    Row(
        "mul",
        modules=(functions.Mul,),
        static=nnq.Mul,
        functions=(operator.mul, operator.imul, torch.mul),
        methods=("mul", "mul_"),
        lift=lift.mul,
    ),
    Row("mul_scalar", modules=(functions.MulScalar,), static=nnq.MulScalar),
    Row(
        "div",
        functions=(operator.truediv, operator.itruediv, torch.div),
        methods=("div", "div_"),
        lift=lift.div,
    ),
    Row(
        "matmul",
        modules=(functions.MatMul,),
        static=nnq.MatMul,
        functions=(operator.matmul, torch.matmul, torch.bmm),
        methods=("matmul", "bmm"),
        lift=lift.matmul,
    ),
    Row(
        "cat",
        modules=(functions.Cat,),
        static=nnq.Cat,
        functions=(torch.cat, torch.concat),
        lift=lift.cat,
    ),
    # Moving elements: these run on integer codes as they stand.
    Row("identity", modules=(nn.Identity,), output=SHARED),
    Row(
        "flatten",
        modules=(nn.Flatten,),
        functions=(torch.flatten,),
        methods=("flatten",),
        output=SHARED,
    ),
    Row(
        "unflatten",
        modules=(nn.Unflatten,),
        functions=(torch.unflatten,),
        methods=("unflatten",),
        output=SHARED,
    ),
    Row(
        "reshape",
        functions=(torch.reshape,),
        methods=("reshape", "view", "reshape_as", "view_as"),
        output=SHARED,
    ),
    Row(
        "permute",
        functions=(torch.permute, torch.transpose, torch.swapaxes, torch.movedim, torch.t),
        methods=("permute", "transpose", "swapaxes", "movedim", "t"),
        output=SHARED,
    ),
    Row(
        "squeeze",
        functions=(torch.squeeze, torch.unsqueeze),
        methods=("squeeze", "squeeze_", "unsqueeze", "unsqueeze_"),
        output=SHARED,
    ),
    Row(
        "chunk",
        functions=(torch.chunk, torch.split, torch.tensor_split, torch.unbind),
        methods=("chunk", "split", "tensor_split", "unbind"),
        output=SHARED,
    ),
    Row(
        "getitem",
        functions=(operator.getitem, torch.select, torch.narrow, torch.index_select),
        methods=("select", "narrow", "index_select"),
        output=SHARED,
    ),
    Row(
        "expand",
        functions=(torch.repeat_interleave, torch.tile, torch.broadcast_to),
        methods=("expand", "expand_as", "repeat", "repeat_interleave", "tile"),
        output=SHARED,
    ),
    Row(
        "contiguous",
        functions=(torch.clone, torch.detach),
        methods=("contiguous", "clone", "detach"),
        output=SHARED,
    ),
    Row("roll", functions=(torch.roll, torch.flip), methods=("roll", "flip"), output=SHARED),
)
