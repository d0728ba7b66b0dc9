"""Whether this machine has a usable NVIDIA GPU, asked of the driver itself.

The driver library is called through ctypes: the question must be answered on machines where no CUDA package is
installed, and without starting a CUDA context.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Final

_MAJOR: Final = 75
_MINOR: Final = 76


@dataclass(frozen=True)
class Device:
    """One GPU: its name and compute capability, such as "8.9"."""

    name: str
    capability: str


def devices() -> tuple[Device, ...]:
    """The GPUs that the driver shows (`CUDA_VISIBLE_DEVICES` applies); empty where there is no driver."""
    found, _ = _query()
    return found


def no_gpu_reason() -> str | None:
    """Why no GPU can be used here, or None when one can."""
    found, reason = _query()
    return None if found else reason


def _query() -> tuple[tuple[Device, ...], str]:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return (), "this machine has no NVIDIA driver (libcuda.so.1 is absent)"
    if (code := driver.cuInit(0)) != 0:
        return (), f"the NVIDIA driver does not start (cuInit gave error {code})"
    count = ctypes.c_int()
    if (code := driver.cuDeviceGetCount(ctypes.byref(count))) != 0 or count.value == 0:
        return (), "the NVIDIA driver shows no GPU (see CUDA_VISIBLE_DEVICES)"
    return tuple(_device(driver, index) for index in range(count.value)), ""


def _device(driver: ctypes.CDLL, index: int) -> Device:
    name = ctypes.create_string_buffer(256)
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(handle), index)
    driver.cuDeviceGetName(name, 256, handle)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle)
    return Device(name.value.decode(), f"{major.value}.{minor.value}")
