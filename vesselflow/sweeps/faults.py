"""What kind of fault an error is: whose fault it is decides whether the run is tried again.

Imports neither torch nor Ray: kinds are told by the names of the classes, so that an error that
another rank told in words is classified as the error itself would be.
"""

from __future__ import annotations

import enum
import errno
import re
from collections.abc import Iterable

from vesselflow.records.atomic import storage_trouble
from vesselflow.training.failures import Sign, signs_of


class Fault(enum.Enum):
    """Kinds of faults; the value says it to a person."""

    USER_CODE = "its code raised an error"
    DIVERGED = "its gradients were not finite"
    PEER_LOST = "another worker of its group went away"
    CLUSTER = "the cluster lost something it needs"
    STORAGE = "the storage is in trouble"
    OUT_OF_MEMORY = "the memory was used up"
    INTERRUPTED = "it was stopped on request"

    @property
    def ends_the_run(self) -> bool:
        """Whether another try would meet it again: the run is marked as failed."""
        return self in (Fault.USER_CODE, Fault.DIVERGED)


#: Names of classes -> kind; the first that fits one of an error's classes counts.
_BY_NAME: tuple[tuple[str, Fault], ...] = (
    ("vesselflow.errors.Interrupted", Fault.INTERRUPTED),
    ("vesselflow.errors.StorageTrouble", Fault.STORAGE),
    ("vesselflow.training.loop.Diverged", Fault.DIVERGED),
    ("torch.OutOfMemoryError", Fault.OUT_OF_MEMORY),
    ("ray.exceptions.OutOfMemoryError", Fault.OUT_OF_MEMORY),
    ("builtins.MemoryError", Fault.OUT_OF_MEMORY),
    ("torch.distributed.DistError", Fault.PEER_LOST),
    ("builtins.ConnectionError", Fault.CLUSTER),
)
#: Errors of Ray that say nothing but that the code they ran raised; what it raised is told beside.
_WRAPPERS = ("ray.exceptions.RayTaskError", "ray.exceptions.UserCodeException")
#: Texts of errors whose class says too little (RuntimeError, mostly), in this order.
_BY_TEXT: tuple[tuple[re.Pattern[str], Fault], ...] = (
    (
        re.compile(
            r"out of memory|DefaultCPUAllocator: (can't|not enough)|CUBLAS_STATUS_ALLOC_FAILED",
            re.IGNORECASE,
        ),
        Fault.OUT_OF_MEMORY,
    ),
    (
        re.compile(
            r"gloo/|\bNCCL\b|ProcessGroup|Connection (closed|reset) by peer|Broken pipe"
            r"|Timed out waiting \d+ ?ms for (send|recv)"
        ),
        Fault.PEER_LOST,
    ),
)
#: How HDF5 says what the system said.
_HDF5_ERRNO = re.compile(r"errno = (\d+)")


def classify(error: BaseException) -> Fault:
    """The kind of an error, by itself, what it came from, and what it was raised in handling.

    The outermost error of the chain whose kind is known counts; when none is, it is an error in
    the code of the run.
    """
    return classify_signs(signs_of(error))


def classify_signs(signs: Iterable[Sign]) -> Fault:
    """`classify` of the signs of an error, outermost first."""
    for sign in signs:
        fault = _kind(sign)
        if fault is not None:
            return fault
    return Fault.USER_CODE


def _kind(sign: Sign) -> Fault | None:
    for name, fault in _BY_NAME:
        if name in sign.names:
            return fault
    # A wrapper's class may be made of its own and of that of the error in it.
    if any(name in sign.names for name in _WRAPPERS):
        return None
    if any(name.startswith(("ray.exceptions.", "ray.data.exceptions.")) for name in sign.names):
        return Fault.CLUSTER
    if "builtins.OSError" in sign.names:
        return _system(sign)
    if "builtins.RuntimeError" in sign.names:
        return next((fault for pattern, fault in _BY_TEXT if pattern.search(sign.text)), None)
    return None


def _system(sign: Sign) -> Fault | None:
    """The kind of an error of the system; a missing permission may be the code's own fault."""
    match = _HDF5_ERRNO.search(sign.text)
    number = sign.number or (int(match[1]) if match else 0)
    if number == errno.ENOMEM:
        return Fault.OUT_OF_MEMORY
    if number in (errno.EACCES, errno.EPERM):
        return None
    return Fault.STORAGE if storage_trouble(OSError(number, "")) is not None else None
