"""Whether the networks, queues and banks of a training fit into memory, determined before any is allocated.

An allocation that is too large may succeed and the process be killed later, without a word, when it uses the memory: a
container and Linux's overcommit do that.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from fgdata.errors import InputError

from .. import objectives
from ..place import is_out_of_memory
from ..settings.common import Config

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def check_memory(config: Config, samples: int, device: torch.device) -> None:
    """InputError if the tensors of some settings are larger than the memory of the device.

    samples: number of training images. Counts what is certain: weights, gradients, the optimiser's averages, buffers.
    """
    limit = available_memory(device)
    copies = 3 if config.optim.name == "adamw" else 2
    try:
        with torch.device("meta"):
            objective = objectives.build(config, samples)
    except InputError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            return  # a plug-in's objective, which cannot be built without memory
        raise InputError(f"These settings need tensors of more than 2^63 bytes. {_ADVICE}") from error
    sizes = {name: value.nbytes for name, value in objective.named_buffers()}
    sizes |= {name: value.nbytes * (1 + copies * value.requires_grad) for name, value in objective.named_parameters()}
    total = sum(sizes.values())
    if total > limit:
        tensors = dict([*objective.named_buffers(), *objective.named_parameters()])
        largest = max(sizes, key=lambda name: sizes[name])
        shape = " x ".join(f"{side:,}" for side in tensors[largest].shape)
        raise InputError(
            f"These settings need {_gigabytes(total)} for networks, queues and banks, {_gigabytes(sizes[largest])} of "
            f"them for {largest} ({shape}), but the memory of {device} is {_gigabytes(limit)}. {_ADVICE}"
        )


_ADVICE = "Lower the setting of that size, such as --moco.queue, --pair.bank, --model.width or a head's hidden width."


def available_memory(device: torch.device) -> int:
    """Bytes of a GPU; on a CPU those of the machine, or fewer in a container or under `ulimit -v`."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return min(_limits())


def _limits() -> Iterator[int]:
    """Every limit in bytes that the system states: of the machine, of this process, of its control group and those
    above it."""
    yield sys.maxsize
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(ImportError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            yield soft
    groups = [CGROUPS / "memory.max", CGROUPS / "memory/memory.limit_in_bytes"]  # versions 2 and 1
    with suppress(OSError, ValueError):
        own = OWN_CGROUP.read_text().rpartition("0::/")[2].strip()
        groups += [folder / "memory.max" for folder in (CGROUPS / own, *(CGROUPS / own).parents)]
    for file in groups:
        with suppress(OSError, ValueError):  # absent, or "max"
            yield int(file.read_text())


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
