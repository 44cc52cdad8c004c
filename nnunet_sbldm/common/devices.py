"""CPU, CUDA and MPS: what is there, the arithmetic that is fastest on it, and how much of a GPU to take."""

from __future__ import annotations

import torch

from nnunet_sbldm.types import UserError


def refuse_missing_device(device: str) -> None:
    """Raise a :class:`UserError` if this machine has no such device (``cpu``, ``cuda`` or ``mps``)."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("-device cuda was asked for, but no CUDA GPU is available; use -device cpu.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("-device mps was asked for, but it is not available; use -device cpu.")


def chosen_device(asked: str | None) -> str:
    """The device asked for, else a GPU if there is one.

    Raises:
        UserError: this machine has no such device.
    """
    device = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    refuse_missing_device(device)
    return device


def best_precision(device: str) -> str:
    """``bf16`` where the hardware multiplies it faster than fp32 (recent GPUs; CPUs with AMX or AVX512-BF16), else ``fp32``."""
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities() if device == "cpu" else {}
    return "bf16" if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else "fp32"


def arithmetic(device: torch.device, precision: str) -> torch.autocast:
    """Context in which networks compute in one of ``PRECISIONS``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


GPU_MEMORY_SHARE = 0.25
"""Most of a GPU's memory that is taken."""
MIN_GPU_BYTES = 2**29


def limit_gpu_memory(device: torch.device) -> None:
    """Cap what this process may take of a GPU; does nothing elsewhere.

    Raises:
        UserError: the GPU is not there, or as good as full.
    """
    if device.type != "cuda":
        return
    index = device.index or 0
    if index >= torch.cuda.device_count():
        raise UserError(f"There is no {device} to make synthetic cases on, {torch.cuda.device_count()} GPU(s) are visible: set "
                        "sbldm_device to one of them or to cpu (sbldm_configure).")
    free, total = torch.cuda.mem_get_info(index)
    limit = min(free, int(GPU_MEMORY_SHARE * total))
    if limit < MIN_GPU_BYTES:
        raise UserError(f"{device} has {free / 2**30:.1f} of {total / 2**30:.1f} GB free, too little to make synthetic cases: "
                        "free some, or set sbldm_device to another device (sbldm_configure).")
    torch.cuda.set_per_process_memory_fraction(limit / total, index)
