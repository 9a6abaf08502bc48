"""Whether the tensors of a training run fit into memory, determined before any is allocated.

An allocation that is too large may succeed and the process be killed later, without a word, when it uses the memory: a
container and Linux's overcommit do that.
"""

import math
from typing import Any

import torch

from fgdata.cores import memory_limit
from fgdata.errors import InputError

from .. import objectives
from ..place import is_out_of_memory
from ..settings.common import Config


def check_memory(
    config: Config, samples: int, device: torch.device | None, processes: int = 1, classes: int = 0
) -> Any:
    """InputError if the tensors of some settings are larger than the memory of the device -> the objective on torch's
    meta device, without memory; None for that of a plug-in, which may need some.

    samples: number of training images. device: None for one of another machine, of which nothing is known; then only
    the settings are checked. processes: how many share a batch. classes: of the shard set. Counts what is certain:
    weights, gradients, the optimiser's averages, queues and banks, and the views of one batch.
    """
    copies = 3 if config.optim.name == "adamw" else 2
    try:
        with torch.device("meta"):
            objective = objectives.build(config, samples, classes)
    except InputError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            return None
        raise InputError(f"These settings need tensors of more than 2^63 bytes. {_ADVICE}") from error
    if device is None:
        return objective
    batch = min(config.data.batch_size, samples) // processes
    shapes = {name: [batch if side < 0 else side for side in shape] for name, shape in objective.views.tensors.items()}
    tensors = [(f"the {name} of a batch", shape, 4 * math.prod(shape)) for name, shape in shapes.items()]
    tensors += [(name, value.shape, value.nbytes) for name, value in objective.named_buffers()]
    tensors += [(n, p.shape, p.nbytes * (1 + copies * p.requires_grad)) for n, p in objective.named_parameters()]
    total, limit = sum(size for _, _, size in tensors), available_memory(device)
    if total > limit:
        name, sides, size = max(tensors, key=lambda tensor: tensor[2])
        shape = " x ".join(f"{side:,}" for side in sides)
        raise InputError(
            f"These settings need {_gigabytes(total)} of memory, {_gigabytes(size)} of it for {name} ({shape}), but "
            f"{device} has {_gigabytes(limit)}. {_ADVICE}"
        )
    return objective


_ADVICE = (
    "Lower the setting of that size, such as --moco.queue, --pair.bank, --data.batch-size, --views.size, --model.width "
    "or a head's hidden width."
)


def available_memory(device: torch.device) -> int:
    """Bytes of a GPU; on a CPU those of the machine, or fewer in a container or under `ulimit -v`."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return memory_limit()


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
