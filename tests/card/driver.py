"""The C calls under torch.cuda, stood in for. torch.cuda's own Python runs, with all that it refuses."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
import torch.utils.checkpoint

from tests.card import streams
from tests.card.generators import Generator

if TYPE_CHECKING:
    from tests.card.pretended import PretendedCard

ARCHITECTURES = "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120"  # of torch 2.13 for CUDA 13.0


def stand_in(card: PretendedCard, stack: ExitStack) -> None:
    def put(owner: Any, name: str, value: Any) -> None:
        stack.enter_context(mock.patch.object(owner, name, value, create=True))

    for name, value in _calls(card).items():
        put(torch._C, name, value)
    for name, value in {"_has_cuda": True}.items():
        put(torch._C, name, value)
    for owner, named in streams.methods(card).items():
        for name, value in named.items():
            put(owner, name, value)
    cuda = torch.cuda
    for name, value in {
        "_cudart": SimpleNamespace(cudaMemGetInfo=lambda index: (_free(card), card.memory.total)),
        "_initialized": False,
        "_cached_device_count": None,
        "default_generators": (),
        "_queued_calls": [(cuda._check_capability, [])],
        "_exchange_device": _only_the_first(0),
        "_maybe_exchange_device": _only_the_first(0),
        "_get_device_properties": None,
    }.items():
        put(cuda, name, value)
    put(torch.cuda.graphs, "_cuda_isCurrentStreamCapturing", lambda: card.streams.capturing is not None)
    put(torch.cuda.graphs, "_graph_pool_handle", card.streams.new_pool)
    put(torch.cuda.graph, "default_capture_stream", None)
    put(torch, "Generator", Generator)
    # a checkpointed block compares its tensors' devices with those of before, from where this card is not seen
    same = {"default": lambda tensor: (tensor.shape, tensor.dtype)}
    stack.enter_context(mock.patch.dict(torch.utils.checkpoint._allowed_determinism_checks_to_fns, same))
    put(torch.version, "cuda", "13.0")
    stack.callback(cuda._check_bf16_tensor_supported.cache_clear)
    cuda._check_bf16_tensor_supported.cache_clear()


def _free(card: PretendedCard) -> int:
    return card.memory.total - card.memory.reserved


def _only_the_first(answer: Any) -> Any:
    def call(index: int) -> Any:
        if index > 0:
            raise torch.AcceleratorError("CUDA error: invalid device ordinal")
        return answer

    return call


def _calls(card: PretendedCard) -> dict[str, Any]:
    memory, lanes = card.memory, card.streams

    def init() -> None:
        major, minor = card.capability
        facts = SimpleNamespace(
            name=card.name,
            major=major,
            minor=minor,
            total_memory=memory.total,
            multi_processor_count=80,
            is_integrated=False,
            is_multi_gpu_board=False,
            warp_size=32,
            gcnArchName="",
        )
        torch.cuda._get_device_properties = lambda index: facts
        torch.cuda.default_generators = (Generator("cuda"),)

    def set_fraction(fraction: float, index: int) -> None:
        memory.limit = int(fraction * memory.total)

    def set_stream(stream_id: int, device_index: int, device_type: int) -> None:
        lanes.current = stream_id

    def empty_cache() -> None:
        card.refuse_while_capturing()
        memory.empty_cache()

    def only(index: int) -> None:
        _only_the_first(None)(index)

    return {
        "_cuda_init": init,
        "_cuda_isInBadFork": lambda: False,
        "_cuda_getDeviceCount": lambda: 1,
        "_cuda_getDevice": lambda: 0,
        "_cuda_setDevice": only,
        "_cuda_exchangeDevice": _only_the_first(0),
        "_cuda_maybeExchangeDevice": _only_the_first(0),
        "_cuda_getArchFlags": lambda: ARCHITECTURES,
        "_cuda_canDeviceAccessPeer": lambda a, b: False,
        "_cuda_setMemoryFraction": set_fraction,
        "_cuda_getMemoryFraction": lambda index: memory.limit / memory.total,
        "_cuda_emptyCache": empty_cache,
        "_host_emptyCache": lambda: None,
        "_cuda_memoryStats": lambda index: memory.statistics(),
        "_cuda_resetPeakMemoryStats": lambda index: memory.reset_peaks(),
        "_cuda_resetAccumulatedMemoryStats": lambda index: None,
        "_cuda_get_sync_debug_mode": lambda: card.sync_debug_mode,
        "_cuda_set_sync_debug_mode": lambda mode: setattr(card, "sync_debug_mode", mode),
        "_cuda_endAllocateToPool": lambda index, pool: lanes.end_allocating(pool),
        "_cuda_releasePool": lambda index, pool: lanes.release_pool(pool),
        "_cuda_synchronize": lanes.synchronize,
        "_cuda_getCurrentStream": lambda index: (lanes.current, 0, streams.CUDA_TYPE),
        "_cuda_getDefaultStream": lambda index: (0, 0, streams.CUDA_TYPE),
        "_cuda_setStream": set_stream,
    }
