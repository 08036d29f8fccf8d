"""Counting compiled and with torch: the same bit by bit, whatever the layout and the threads."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qlab import counting
from qlab.stats import TensorStats


def with_torch(x: Tensor, axis: int | None = None) -> TensorStats:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "count_compiled", lambda *_: None)
        patch.setattr(counting, "loaded", lambda: False)
        return TensorStats.of(x, channel_axis=axis)


def compiled(x: Tensor, axis: int | None = None) -> TensorStats:
    counting.load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_FEW", 0)
        return TensorStats.of(x, channel_axis=axis)


def spread(shape: tuple[int, ...], seed: int) -> Tensor:
    """Floats of many magnitudes, subnormal ones and both zeros too."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    x *= torch.randn(shape, generator=generator).mul(20).exp()
    return torch.where(torch.rand(shape, generator=generator) < 0.1, x.sign() * 0.0, x)


shapes = st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple)


class TestCompiled:
    @settings(deadline=None)
    @given(
        shapes,
        st.integers(0, 9),
        st.sampled_from([None, -1, 0, 1]),
        st.permutations(range(5)),
        st.sampled_from(["as it is", "relu", "below zero", "above zero"]),
    )
    def test_is_the_same_as_torch(self, shape, seed, axis, order, sign):
        x = spread(shape, seed)
        x = x.permute([dim for dim in order if dim < x.dim()])
        x = {"relu": x.relu(), "below zero": -1 - x.abs(), "above zero": 1 + x.abs()}.get(sign, x)
        axis = None if axis == 1 and x.dim() < 2 else axis
        assert compiled(x, axis) == with_torch(x, axis)

    @pytest.mark.parametrize("channels", [1, 3, 64, 3000])
    @pytest.mark.parametrize("layout", ["channels last", "planes"])
    def test_of_more_than_a_chunk(self, channels: int, layout: str):
        x = spread((150_000 // channels // 2 * 2, channels), 0)
        if layout == "planes":
            x = x.reshape(2, -1, channels).transpose(1, 2).contiguous()
        assert compiled(x, 1) == with_torch(x, 1)

    def test_in_blocks_counts_as_at_once(self, monkeypatch: pytest.MonkeyPatch):
        x = spread((200, 100), 1)
        whole = with_torch(x, 1)
        monkeypatch.setattr(counting.load(), "BLOCK", 7000)
        assert compiled(x, 1) == whole

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_in_threads_counts_as_in_one(self, mode, monkeypatch: pytest.MonkeyPatch):
        x = spread((5001, 10), 2)
        whole = with_torch(x, 1)
        monkeypatch.setattr(counting, "_SHARE", 9_000)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        with mode():
            inside = compiled(x.clone(), 1)
        assert inside == whole
        inside.update(x)
        assert inside.count == 2 * x.numel()

    @pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf])
    def test_what_is_not_finite_is_left_out(self, value: float):
        x = spread((60, 100), 3)
        x[3, ::7] = value
        stats = compiled(x, 1)
        assert stats == with_torch(x, 1)
        assert stats.nan_count + stats.inf_count == 15

    def test_the_largest_finite_values_are_finite(self):
        most = torch.finfo(torch.float32).max
        stats = compiled(torch.tensor([[most, -most]]), 1)
        assert stats == with_torch(torch.tensor([[most, -most]]), 1)
        assert stats.count == 2

    def test_an_interrupted_pass_leaves_nothing_behind(self, monkeypatch: pytest.MonkeyPatch):
        x = spread((100, 100), 4)
        kernels = counting.load()

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(kernels, "drain", interrupted)
            with pytest.raises(KeyboardInterrupt):
                compiled(x)
        assert compiled(x) == with_torch(x)

    def test_tables_merge_as_torch_merges_them(self):
        parts = [spread((500, 7), seed) for seed in (5, 6)]
        both = compiled(parts[0]).merge(compiled(parts[1]))
        assert torch.equal(both._keys, with_torch(torch.cat(parts))._keys)
        assert torch.equal(both._table, with_torch(torch.cat(parts))._table)
        empty = TensorStats()
        assert empty.merge(compiled(parts[0])) == compiled(parts[0])

    def test_sums_of_squares_carry(self):
        # Offsets of 0xFFFF: 2**32 of their squares' sum are reached by the second value.
        x = torch.from_numpy(np.full(300_000, 0x3F80FFFF, np.int32).view(np.float32))
        stats = compiled(x).merge(compiled(x))
        squares = 600_000 * 0xFFFF**2
        assert stats._table[2:, 0].tolist() == [squares % 2**32, squares >> 32]


class TestTorch:
    def test_in_blocks_counts_as_at_once(self, monkeypatch: pytest.MonkeyPatch):
        x = torch.randn(20_000)
        whole = with_torch(x)
        for name, value in (("_BLOCK", 7000), ("_CHUNK", 900)):
            monkeypatch.setattr(counting, name, value)
        assert with_torch(x) == whole
        monkeypatch.setattr(counting, "_FEW", 10**6)
        assert with_torch(x) == whole

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_in_threads_counts_as_in_one(self, mode, monkeypatch: pytest.MonkeyPatch):
        x = torch.randn(50_001)
        whole = with_torch(x)
        monkeypatch.setattr(counting, "_SHARE", 9_000)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        with mode():
            assert with_torch(x.clone()) == whole


class TestLoading:
    """What a fresh process does; each of these starts one."""

    @staticmethod
    def run(code: str, **environment: str) -> str:
        head = "import sys, torch\nfrom qlab import counting\nfrom qlab.stats import TensorStats\n"
        done = subprocess.run(
            [sys.executable, "-c", head + code],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_waits_until_it_pays(self):
        said = self.run(
            "counting.LOADING_PAYS = 25_000\n"
            "for _ in range(3):\n"
            "    TensorStats.of(torch.zeros(10_000))\n"
            "    print('numba' in sys.modules, counting.loaded())\n"
        )
        assert said.split("\n")[:3] == ["False False", "False False", "True True"]

    def test_where_compiling_is_off_torch_counts(self):
        said = self.run(
            "print(counting.load(), TensorStats.of(torch.ones(10_000)).count)",
            NUMBA_DISABLE_JIT="1",
        )
        assert said.split() == ["None", "10000"]

    def test_needs_no_folder_for_its_cache(self):
        said = self.run(
            "import numba.core.caching as caching\n"
            "caching.CacheImpl._locator_classes = []\n"
            "counting.load()\n"
            "print(TensorStats.of(torch.ones(10_000)).count)"
        )
        assert said.split() == ["10000"]
