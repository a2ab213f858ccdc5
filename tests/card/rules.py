"""What torch's operators do on CUDA and not on a CPU: who waits, who refuses, who is not deterministic.

From torch 2.13: the documentation of torch.use_deterministic_algorithms, aten/src/ATen/native/cuda, and
TensorIterator's rule that only a tensor of the host without dimensions may stand beside tensors of a card.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Python stands still until the card has done all before, whatever becomes of the result.
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive",
    "equal", "is_nonzero", "allclose", "_linalg_check_errors", "bincount", "histc",
}  # fmt: skip
# They raise while torch.use_deterministic_algorithms(True) holds.
NOT_DETERMINISTIC = {
    "histc", "bincount", "put_", "kthvalue", "median", "grid_sampler_2d_backward", "grid_sampler_3d_backward",
    "upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward",
    "upsample_trilinear3d_backward", "_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward",
    "adaptive_max_pool2d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward",
    "avg_pool3d_backward", "max_pool3d_with_indices_backward", "max_unpool2d", "max_unpool3d",
    "fractional_max_pool2d_backward", "fractional_max_pool3d_backward", "reflection_pad1d_backward",
    "reflection_pad2d_backward", "reflection_pad3d_backward", "replication_pad1d_backward",
    "replication_pad2d_backward", "replication_pad3d_backward", "nll_loss2d_forward", "_ctc_loss_backward",
    "_embedding_bag_per_sample_weights_backward",
}  # fmt: skip
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "addr"}
CPU_ONLY = {
    "histogram",
    "histogramdd",
    "_histogramdd_from_bin_cts",
    "_histogramdd_bin_edges",
    "geqrf_",
    "mkldnn_linear",
}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
# Not pointwise by their tags, but a number of the host may stand in them.
TAKES_A_NUMBER = {"fill_", "masked_fill", "masked_fill_", "where", "_to_copy", "set_"}


class Facts(NamedTuple):
    """Of one overload."""

    name: str  # without "aten::"
    waits: bool
    indexed: bool
    pointwise: bool
    written: tuple[int, ...]  # positions of the arguments that it writes to
    random: bool


@cache
def facts(func: Any) -> Facts:
    schema = func._schema
    name = schema.name.removeprefix("aten::")
    written = tuple(
        i
        for i, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )
    return Facts(
        name,
        name in WAITING,
        name in INDEXED,
        torch.Tag.pointwise in func.tags or name in TAKES_A_NUMBER,
        written,
        torch.Tag.nondeterministic_seeded in func.tags,
    )


def tensors_in(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def waits(of: Facts, args: Any, kwargs: Any) -> bool:
    """Beside those that always do."""
    if of.waits:
        return True
    if of.name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if of.indexed:
        masks = [t for t in args[1] if isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8)]
        # a mask alone that is set to one number becomes masked_fill
        filled = "put" in of.name and len(args[1]) == len(masks) and args[2].numel() == 1
        return bool(masks) and not filled
    return False


def mixed(of: Facts, args: Any, kwargs: Any, here: Any) -> str | None:
    """None where operands of both sides are right together; "upload" where one of the host is brought over, and
    Python waits for that; else what is wrong. `here` says whether a tensor lies on the card."""
    everyone = list(tensors_in((*args, *kwargs.values())))
    host = [t for t in everyone if not here(t)]
    if of.name in ("copy_", "_copy_from"):
        return "download" if here(args[1]) else "upload"
    if of.indexed and here(args[0]):
        indices = [t for t in args[1] if isinstance(t, Tensor)]
        rest = [t for t in host if not any(t is index for index in indices)]
        if all(t.ndim == 0 for t in rest):
            return "upload" if any(not here(index) for index in indices) else None
    if of.indexed and not here(args[0]):
        return "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
    written = [args[i] for i in of.written if i < len(args)]
    numbers_only = all(t.ndim == 0 for t in host) and all(here(t) for t in tensors_in(written))
    if of.pointwise and numbers_only:
        return None
    shapes = ", ".join(f"{'cuda:0' if here(t) else 'cpu'} {list(t.shape)}" for t in everyone)
    return (
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
        f" ({of.name}: {shapes})"
    )


def not_deterministic(of: Facts, args: Any) -> str | None:
    """What torch says with deterministic algorithms asked for; None where it has one."""
    wrong = of.name in NOT_DETERMINISTIC
    if of.name == "cumsum":
        wrong = args[0].is_floating_point() or args[0].is_complex()
    if wrong:
        return (
            f"{of.name}_cuda does not have a deterministic implementation, but you set"
            " 'torch.use_deterministic_algorithms(True)'."
        )
    if of.name in PRODUCTS and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
        return (
            "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)`, but this"
            " operation is not deterministic because it uses CuBLAS. Set CUBLAS_WORKSPACE_CONFIG=:4096:8."
        )
    return None


def not_implemented(of: Facts, tensors: list[Tensor]) -> str | None:
    """What CUDA has no kernel for, though the CPU has."""
    if of.name in CPU_ONLY:
        return f"Could not run 'aten::{of.name}' with arguments from the 'CUDA' backend."
    if of.name in PRODUCTS and not (tensors[0].is_floating_point() or tensors[0].is_complex()):
        return f"\"{of.name}_cuda\" not implemented for '{str(tensors[0].dtype).removeprefix('torch.').capitalize()}'"
    return None
