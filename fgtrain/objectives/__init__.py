"""One nn.Module per method, made from its config and the number of training images.

    forward(batch, progress) -> (loss (), logs: dict of () tensors)     the only call the trainer makes under autograd
    views: ViewSpec                 what the loader must deliver
    encoder                         what the run keeps
    accumulates: bool               whether the parts of a batch make the same objective
    constant_rate                   prefixes of parameters whose learning rate stays at its peak
    after_step(progress)            moving averages, after every optimiser step; progress runs from 0 to 1

Banks, queues and moving averages are buffers or parameters of the module, so a checkpoint holds them.
"""

from importlib import import_module
from typing import Any

from fgtrain.config import Config


def build(config: Config, samples: int) -> Any:
    """The objective of a config, its initial weights decided by the seed alone. `samples`: images of the split."""
    import torch

    module, name = config.objective.split(":")
    with torch.random.fork_rng(devices=[]):  # all is made on the CPU; saving the states of GPUs would wake every one
        torch.default_generator.manual_seed(config.seed)
        objective = getattr(import_module(module), name)(config, samples)
    return objective.to(memory_format=torch.channels_last)
