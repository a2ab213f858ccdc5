"""The hash grids against float64 autograd, each other, and tiny-cuda-nn's conventions."""

import importlib
import sys
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal, localcontext

import pytest
import torch

from backend.errors import DeviceError, InputError
from backend.kernels import hashgrid
from backend.kernels.hashgrid import GridLayout
from tests.tools import strict_tinycudann

SMALL = GridLayout(levels=8, features=2, log2_size=14, base=16, finest=256)
BIG = GridLayout(levels=16, features=4, log2_size=19, base=16, finest=2048)
# largest error / largest value: float32 rounds x * 2047 to 1e-4 of a cell, in every implementation
TOLERANCE = {SMALL: 5e-5, BIG: 3e-4}


def implementation(name):
    if name == "warp":
        pytest.importorskip("warp", reason="warp-lang is not installed")
        return importlib.import_module("backend.kernels.hashgrid_warp").hash_encode
    return hashgrid.hash_encode


def points(layout, count, seed=0):
    """[N,3] float32 with the box's corners among them, none within 1e-3 of a cell's border, where the
    slope jumps and float32 and float64 may stand on either side."""
    x = torch.rand(6 * count, 3, generator=torch.Generator().manual_seed(seed))
    x[:3] = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.31, 0.77]])
    inside = torch.ones(len(x), dtype=torch.bool)
    for scale in layout.scales:
        fraction = (x.double() * scale + 0.5) % 1
        inside &= ((fraction > 1e-3) & (fraction < 1 - 1e-3)).all(1)
    inside[:3] = True
    return x[inside][:count]


def table_of(layout, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(layout.entries, layout.features, generator=generator) * 2 - 1


def reference(x, table, layout):
    """Loops over levels and corners with Python's own integers' arithmetic, in x's precision.

    Written from tiny-cuda-nn's grid.h alone; table is a function from rows [N] to values [N,F].
    """
    out, offset = [], 0
    for level in range(layout.levels):
        scale = layout.scales[level]
        resolution = int(-(-scale // 1)) + 1
        size = min((resolution**3 + 7) // 8 * 8, 2**layout.log2_size)
        position = x * scale + 0.5
        low = position.detach().floor()
        fraction, low = position - low, low.long()
        total = 0
        for corner in range(8):
            bit = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2])
            i, j, k = (low + bit).unbind(1)
            if resolution**3 <= size:
                row = i + j * resolution + k * resolution**2
            else:
                row = i ^ (j * 2654435761 % 2**32) ^ (k * 805459861 % 2**32)
            weight = torch.where(bit.bool(), fraction, 1 - fraction).prod(1, keepdim=True)
            total = total + weight * table(offset + row % size)
        out.append(total)
        offset += size
    assert offset == layout.entries
    return torch.cat(out, 1)


def reference_with_gradients(x, table, layout, g):
    """(rows of the table that are touched, encoding, gradient to those rows, gradient to x) in float64."""
    seen = []
    reference(x.double(), lambda rows: seen.append(rows) or torch.zeros(len(x), layout.features), layout)
    rows = torch.cat(seen).unique()
    part = table[rows].double().requires_grad_()
    wide = x.double().requires_grad_()
    out = reference(wide, lambda at: part[torch.searchsorted(rows, at)], layout)
    to_part, to_x = torch.autograd.grad(out, (part, wide), g.double())
    return rows, out.detach(), to_part, to_x


def difference(got, expected):
    return float((got.detach() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("layout, count", [(SMALL, 1000), (BIG, 300)], ids=["small", "big"])
def test_torch_and_warp_agree_with_float64_forward_and_backward(layout, count):
    x, table = points(layout, count), table_of(layout)
    assert len(x) == count
    g = torch.randn(count, layout.width, generator=torch.Generator().manual_seed(2))
    rows, *expected = reference_with_gradients(x, table, layout, g)
    names = ["torch", "warp"] if importlib.util.find_spec("warp") else ["torch"]
    results = []
    for name in names:
        x_, table_ = x.clone().requires_grad_(), table.clone().requires_grad_()
        out = implementation(name)(x_, table_, layout)
        to_table, to_x = torch.autograd.grad(out, (table_, x_), g)
        results.append((out.detach(), to_table[rows], to_x))
        assert to_table.count_nonzero() == to_table[rows].count_nonzero()
        for got, right in zip(results[-1], expected, strict=True):
            assert got.dtype == torch.float32
            assert difference(got, right) < TOLERANCE[layout]
    for got, other in zip(*results[:2], strict=True) if len(results) == 2 else ():
        assert difference(got, other) < 2e-6


def test_gradients_of_the_torch_twin_are_finite_differences():
    layout = GridLayout(levels=3, features=2, log2_size=9, base=4, finest=30)
    assert layout.hashed == (False, True, True)
    x = points(layout, 6).double().requires_grad_()
    table = table_of(layout).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: hashgrid.hash_encode(a, b, layout), (x, table), fast_mode=True
    )


def test_layout_is_tiny_cuda_nns():
    assert BIG.entries == 6_098_120 and SMALL.entries == 116_224
    assert SMALL.resolutions == (16, 24, 36, 53, 79, 116, 173, 256)
    assert SMALL.offsets[:3] == (0, 4096, 4096 + 13824)
    odd = GridLayout(levels=2, features=1, log2_size=19, base=5, finest=9)
    assert odd.sizes == (128, 736)  # 125 and 729 vertices, aligned to 8
    assert BIG.growth == float(torch.tensor(128 ** (1 / 15)))  # float32


def float32(value: Decimal) -> Decimal:
    """The nearest number with 24 bits, halves to even."""
    exponent = 0
    while abs(value) * Decimal(2) ** exponent < 2**23:
        exponent += 1
    while abs(value) * Decimal(2) ** exponent >= 2**24:
        exponent -= 1
    return (value * Decimal(2) ** exponent).to_integral_value(ROUND_HALF_EVEN) / Decimal(2) ** exponent


def exact_scales(levels: int, finest: int) -> list[Decimal]:
    """grid.h's operations on float32, each exact and then rounded: from decimals of 50 digits."""
    with localcontext(Context(prec=50)):
        two = Decimal(2).ln()
        ratio = ((Decimal(finest) / 16).ln() / max(levels - 1, 1)).exp()
        log2 = float32(ratio).ln() / two
        log2 = float32(log2) if log2 else log2
        rising = range(1, levels) if log2 else ()  # else all levels are alike
        powers = [Decimal(1)] * (levels - len(rising)) + [
            float32((float32(k * log2) * two).exp()) for k in rising
        ]
        return [float32(float32(power * 16) - 1) for power in powers]


def test_every_layout_is_the_same_on_every_processor() -> None:
    """All levels, and finest grids up to 4096: what numpy's float32 functions get wrong on some processors."""
    for finest in (64, 100, 128, 256, 512, 1000, 1024, 2048, 3333, 4096):
        for levels in range(1, 33):
            layout, exact = GridLayout(levels, 2, 19, finest=finest), exact_scales(levels, finest)
            assert [Decimal(scale) for scale in layout.scales] == exact, (levels, finest)
            sides = [int(scale.to_integral_value(ROUND_CEILING)) + 1 for scale in exact]
            assert list(layout.resolutions) == sides, (levels, finest)
            sizes = [min(-(-(side**3) // 8) * 8, 2**19) for side in sides]
            assert list(layout.sizes) == sizes and layout.entries == sum(sizes)


@pytest.mark.parametrize("name", ["torch", "warp"])
def test_the_upper_border_wraps_around(name):
    """At x = 1 of a dense level the corner beyond the last vertex is entry (i + r j + r^2 k) % size."""
    layout = GridLayout(levels=1, features=1, log2_size=14, base=16, finest=16)
    table = torch.zeros(layout.entries, 1)
    table[16 * (1 + 16 + 256) % 4096] = 8
    assert implementation(name)(torch.ones(1, 3), table, layout).item() == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["torch", "warp"])
@pytest.mark.parametrize("value", [-3.0, 1e6, float("nan"), float("inf")])
def test_no_position_reads_beyond_the_table(name, value):
    out = implementation(name)(torch.full((3, 3), value), table_of(SMALL), SMALL)
    assert out.shape == (3, SMALL.width)


@pytest.mark.parametrize("name", ["torch", "warp"])
def test_no_points_give_no_rows_and_no_gradient(name):
    table = table_of(SMALL).requires_grad_()
    out = implementation(name)(torch.zeros(0, 3), table, SMALL)
    out.sum().backward()
    assert out.shape == (0, 16) and not table.grad.any()


@pytest.mark.parametrize("name", ["torch", "warp"])
def test_strided_inputs_and_gradients(name):
    x, table = points(SMALL, 50), table_of(SMALL)
    encode = implementation(name)
    a, b = (torch.zeros_like(table, requires_grad=True) for _ in range(2))
    straight = encode(x, table + a, SMALL)
    strided = encode(x.t().contiguous().t(), (table + b).t().contiguous().t(), SMALL)
    assert torch.allclose(straight, strided, atol=1e-6)
    straight[:, ::2].sum().backward()
    strided.t()[::2].t().sum().backward()
    assert torch.allclose(a.grad, b.grad)


@pytest.mark.parametrize("name", ["torch", "warp"])
def test_a_second_derivative_is_refused_in_words(name):
    x, table = points(SMALL, 5).requires_grad_(), table_of(SMALL)
    out = implementation(name)(x, table, SMALL).square().sum()
    (slope,) = torch.autograd.grad(out, x, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"no second derivative.*finite differences"):
        slope.square().sum().backward()


@pytest.mark.parametrize("name", ["torch", "warp"])
def test_repeats_are_equal_to_the_last_bit_with_two_threads(name):
    encode = implementation(name)
    x, table = points(SMALL, 5_000), table_of(SMALL).requires_grad_()
    g = torch.randn(len(x), SMALL.width, generator=torch.Generator().manual_seed(3))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = [torch.autograd.grad(encode(x, table, SMALL), table, g)[0] for _ in range(5)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(run, runs[0]) for run in runs)


@pytest.mark.parametrize("layout", [SMALL, BIG], ids=["small", "big"])
def test_warp_shares_the_work_among_threads_and_gives_the_same_bytes(layout, monkeypatch):
    encode = implementation("warp")
    module = importlib.import_module("backend.kernels.hashgrid_warp")
    shared = []
    launch = module._launch
    monkeypatch.setattr(
        module, "_launch", lambda k, shares, d: shared.append(len(shares)) or launch(k, shares, d)
    )
    x, table = points(layout, 5_000).requires_grad_(), table_of(layout).requires_grad_()
    g = torch.randn(len(x), layout.width, generator=torch.Generator().manual_seed(3))
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 64):
            torch.set_num_threads(count)
            out = encode(x, table, layout)
            runs.append((out, *torch.autograd.grad(out, (x, table), g)))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))
    most = 5_000 * layout.levels // module.SHARE
    assert shared == [
        1,
        1,
        1,
        2,
        2,
        2,
        3,
        3,
        3,
        most,
        min(most, layout.levels),
        most,
    ]  # forth, to table, to x
    encode(x[:100], table, layout), encode(x[:0], table, layout)
    assert shared[-2:] == [1, 1]


def test_sizes_that_no_kernel_can_do_are_refused():
    for wrong in ({"features": 3}, {"levels": 0}, {"log2_size": 2}, {"finest": 8}):
        with pytest.raises(InputError, match="hash grid"):
            GridLayout(**{"levels": 8, "features": 2, "log2_size": 14, **wrong})
    with pytest.raises(ValueError, match=r"expected x \[N,3\] and a table \[116224,2\]"):
        hashgrid.hash_encode(torch.zeros(4, 3), torch.zeros(100, 2), SMALL)


@pytest.fixture
def tcnn(monkeypatch):
    strict_tinycudann.install(monkeypatch, card="cpu")
    yield importlib.import_module("backend.kernels.hashgrid_tcnn")
    sys.modules.pop("backend.kernels.hashgrid_tcnn", None)


def test_the_tcnn_adapter_takes_our_table(tcnn):
    g = torch.randn(100, SMALL.width, generator=torch.Generator().manual_seed(2))
    results = []
    for encode in (tcnn.hash_encode, hashgrid.hash_encode):
        x, table = points(SMALL, 100).requires_grad_(), table_of(SMALL).requires_grad_()
        out = encode(x, table, SMALL)
        results.append((out.detach(), *torch.autograd.grad(out, (table, x), g)))
    for got, expected in zip(*results, strict=True):
        assert got.shape == expected.shape and difference(got, expected) < TOLERANCE[SMALL]
    assert tcnn.hash_encode(torch.zeros(0, 3), table_of(SMALL), SMALL).shape == (0, SMALL.width)


def test_the_tcnn_adapter_keeps_no_second_table(tcnn):
    tcnn.hash_encode(points(SMALL, 3), table_of(SMALL), SMALL)
    assert tcnn._encoding(SMALL, "cpu").params.numel() == 0


def test_the_tcnn_adapter_refuses_another_layout_and_a_second_derivative(tcnn, monkeypatch):
    x = points(SMALL, 5).requires_grad_()
    slope = torch.autograd.grad(
        tcnn.hash_encode(x, table_of(SMALL), SMALL).square().sum(), x, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="no second derivative"):
        slope[0].sum().backward()
    tcnn._encoding.cache_clear()
    monkeypatch.setattr(strict_tinycudann.Native, "n_params", lambda self: self._layout.n_params - 8)
    with pytest.raises(DeviceError, match=r"holds 232440 numbers .* 116224 x 2"):
        tcnn.hash_encode(x, table_of(SMALL), SMALL)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("module", ["hashgrid", "hashgrid_warp", "hashgrid_tcnn"])
@pytest.mark.parametrize("layout", [SMALL, BIG], ids=["small", "big"])
def test_on_a_card(module, layout):
    try:
        encode = importlib.import_module(f"backend.kernels.{module}").hash_encode
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"{module}: {error}")
    x, table = points(layout, 300), table_of(layout)
    g = torch.randn(len(x), layout.width, generator=torch.Generator().manual_seed(2))
    x_, table_ = x.cuda().requires_grad_(), table.cuda().requires_grad_()
    with torch.cuda.stream(torch.cuda.Stream()):
        out = encode(x_, table_, layout)
        to_table, to_x = torch.autograd.grad(out, (table_, x_), g.cuda())
        results = out.cpu(), to_table.cpu(), to_x.cpu()
    rows, *expected = reference_with_gradients(x, table, layout, g)
    for got, right in zip((results[0], results[1][rows], results[2]), expected, strict=True):
        assert difference(got, right) < TOLERANCE[layout]
