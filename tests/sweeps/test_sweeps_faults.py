"""Whose fault an error is, told by names and texts alone."""

from __future__ import annotations

import errno
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist

from vesselflow.errors import Interrupted, StorageTrouble, UserError
from vesselflow.sweeps.faults import Fault, classify
from vesselflow.training.failures import PeerError, tell
from vesselflow.training.loop import Diverged

#: As torch and gloo word it.
_GLOO = (
    "[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer "
    "[127.0.0.1]:31337"
)
_GLOO_LATE = (
    "[/pytorch/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv"
)
_CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"


def _from(outer: Exception, inner: BaseException) -> Exception:
    outer.__cause__ = inner
    return outer


def _within(outer: Exception, inner: BaseException) -> Exception:
    outer.__context__ = inner
    return outer


def _named(name: str, module: str, *bases: type[Exception]) -> type[Exception]:
    return type(name, bases or (Exception,), {"__module__": module})


_RAY = _named("RayError", "ray.exceptions")
_LOST = _named("ObjectLostError", "ray.exceptions", _RAY)
_ACTOR = _named("ActorDiedError", "ray.exceptions", _RAY)
_TASK = _named("RayTaskError", "ray.exceptions", _RAY)

CASES = {
    "a bug": (KeyError("x"), Fault.USER_CODE),
    "bad input": (UserError("no such thing"), Fault.USER_CODE),
    "a shape": (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), Fault.USER_CODE),
    "a missing file": (FileNotFoundError(errno.ENOENT, "No such file", "/a"), Fault.USER_CODE),
    "a forbidden file": (PermissionError(errno.EACCES, "denied", "/a"), Fault.USER_CODE),
    "diverged": (Diverged("3 in a row"), Fault.DIVERGED),
    "stopped": (_from(Interrupted(), StorageTrouble("full")), Fault.INTERRUPTED),
    "gloo": (RuntimeError(_GLOO), Fault.PEER_LOST),
    "gloo, late": (RuntimeError(_GLOO_LATE), Fault.PEER_LOST),
    "reset": (RuntimeError("Connection reset by peer"), Fault.PEER_LOST),
    "nccl": (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:1275"), Fault.PEER_LOST),
    "backend": (dist.DistBackendError("x"), Fault.PEER_LOST),
    "network": (dist.DistNetworkError("x"), Fault.PEER_LOST),
    "store": (dist.DistStoreError("x"), Fault.PEER_LOST),
    "object lost": (_LOST("x"), Fault.CLUSTER),
    "actor died": (_ACTOR("x"), Fault.CLUSTER),
    "a task's own bug": (_from(_TASK("x"), ValueError("bad")), Fault.USER_CODE),
    "a task's disk": (_from(_TASK("x"), OSError(errno.EIO, "io")), Fault.STORAGE),
    "a connection": (ConnectionResetError(errno.ECONNRESET, "reset"), Fault.CLUSTER),
    "full": (StorageTrouble("full", number=errno.ENOSPC), Fault.STORAGE),
    "stale": (OSError(errno.ESTALE, "Stale file handle"), Fault.STORAGE),
    "hdf5": (
        OSError("Can't read data (file read failed: errno = 5, error message = 'I/O error')"),
        Fault.STORAGE,
    ),
    "torn hdf5": (OSError("Can't read data (inflate() failed)"), Fault.USER_CODE),
    "explained": (_from(UserError("cannot be read"), OSError(errno.EIO, "io")), Fault.STORAGE),
    "cuda": (torch.OutOfMemoryError("CUDA out of memory. Tried"), Fault.OUT_OF_MEMORY),
    "host": (RuntimeError(_CPU), Fault.OUT_OF_MEMORY),
    "python": (MemoryError(), Fault.OUT_OF_MEMORY),
    "while handling": (_within(ValueError("too large"), MemoryError()), Fault.OUT_OF_MEMORY),
    "enomem": (OSError(errno.ENOMEM, "Cannot allocate memory"), Fault.OUT_OF_MEMORY),
    "not chained": (None, Fault.USER_CODE),
}


def _raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize("name", CASES)
def test_kinds(name):
    error, fault = CASES[name]
    if error is None:
        error = ValueError("new")
        error.__context__, error.__suppress_context__ = MemoryError(), True
    assert classify(error) is fault
    # Another rank, told of it in words that were pickled, sees the same kind.
    told = pickle.loads(pickle.dumps(PeerError(tell(_raised(error), rank=1))))
    assert classify(told) is fault
    assert fault.ends_the_run == (fault in (Fault.USER_CODE, Fault.DIVERGED))


def test_memory_errors_of_libraries():
    with pytest.raises(MemoryError) as array:
        np.zeros((10**7, 10**7))
    assert classify(array.value) is Fault.OUT_OF_MEMORY
    with pytest.raises(RuntimeError) as tensor:
        torch.zeros((10**7, 10**7))
    assert classify(tensor.value) is Fault.OUT_OF_MEMORY


def test_a_chain_that_bites_its_tail_ends():
    one, other = ValueError("a"), ValueError("b")
    one.__context__, other.__context__ = other, one
    assert classify(one) is Fault.USER_CODE


def test_what_is_told_names_type_line_and_place():
    with pytest.raises(UserError) as caught:
        _raise_within_the_package()
    told = tell(caught.value, rank=2)
    assert told.text.startswith("UserError: ")
    assert told.place.startswith("vesselflow/records/atomic.py:")
    assert "Traceback (most recent call last)" in told.trace
    assert str(PeerError(told)) == f"rank 2: {told.text}"
    assert tell(PeerError(told), rank=0) is told
    # A part of the user's is named by its file; what a library raises, by who called it.
    with pytest.raises(ValueError, match="array") as own:
        np.array([1, 2]).reshape(3)
    assert tell(own.value).place.startswith(f"{__file__}:")
    assert tell(ValueError()).place == ""
    assert tell(ValueError()).text == "ValueError"


def _raise_within_the_package() -> None:
    from vesselflow.records.atomic import write_bytes

    write_bytes(f"{__file__}/inside", b"")


def test_kinds_are_told_without_torch_and_ray():
    code = (
        "import sys; from vesselflow.sweeps import faults, gate; "
        "print([m for m in ('torch', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
