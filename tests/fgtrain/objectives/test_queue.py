"""MoCo's queue of keys."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from objective_cases import CASES, batch, double, small, without_batch_statistics

from fgtrain import objectives
from fgtrain.objectives.queue import Queue, own_negatives
from fgtrain.settings.methods import (
    CvsaConfig,
    MocoConfig,
    MocoSettings,
)


def test_queue_turns_over_oldest_first():
    objective = objectives.build(CASES["moco"](), samples=10)  # auto: 8 rows
    queue = objective.queue
    assert queue.keys.shape == (8, 8)
    old = queue.keys.clone()
    one, two = torch.ones(6, 8), torch.full((4, 8), 2.0)
    queue.add(one)
    assert torch.equal(queue.keys, torch.cat([one, old[6:]]))
    queue.add(two)
    assert torch.equal(queue.keys, torch.cat([two[:2], one[2:6], two[:2]]))
    assert int(queue.cursor) == 2


def test_three_moco_steps_match_steps_by_hand():
    objective = without_batch_statistics(CASES["moco"]())
    queue, target = objective.queue.keys.clone(), [p.clone() for p in objective.target_encoder.parameters()]
    for step in range(3):
        data, before = double(batch(seed=step)), objective.queue.keys.clone()
        objective(data, step / 3)[0].backward()
        assert torch.equal(objective.queue.keys, before)  # keys are added after the step
        keys = objective.target_projector(objective.target_encoder(data["views"][1]).pooled)
        queue[6 * step : 6 * step + 6] = keys / keys.norm(dim=1, keepdim=True)
        with torch.no_grad():
            for parameter in objective.encoder.parameters():
                parameter -= 0.1 * parameter.grad
        objective.after_step((step + 1) / 3)
        target = [0.999 * t + 0.001 * p.detach() for t, p in zip(target, objective.encoder.parameters())]
        torch.testing.assert_close(objective.queue.keys, queue)
        for ours, by_hand in zip(objective.target_encoder.parameters(), target):
            torch.testing.assert_close(ours.detach(), by_hand)
        objective.zero_grad()


@pytest.mark.parametrize("each", [1, 2])
def test_queue_that_reaches_back_beyond_an_epoch_is_remarked_on(each: int):
    """MoCo adds one key of each image, symmetric MoCo and CVSA two."""
    settings = [small(MocoConfig, moco=MocoSettings(dim=8, symmetric=each == 2))]
    settings += [small(CvsaConfig, base="moco", moco=MocoSettings(dim=8))] * (each == 2)
    for config, (queue, count) in product(settings, ((8, 0), (10 * each, 0), (10 * each + 4, 1))):
        objective = objectives.build(replace(config, moco=replace(config.moco, queue=queue)), samples=10)
        remarks = getattr(objective, "base", objective).queue.remarks
        assert len(remarks) == count
        shares = [f"{own_negatives(n, 10 * each):.0%}" for n in (queue, 8)]
        for line in remarks:
            assert f"{queue} negatives" in line
            assert f"{shares[0]} of the images are among their own negatives" in line
            assert f"auto (8), {shares[1]} are" in line


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("size", [64, 256, 512, 600, 1024, 1500])
def test_share_of_the_images_that_are_among_their_own_negatives(size: int, each: int):
    """Against a queue of the numbers of 512 images that come once per epoch, in batches of 8."""
    queue, found = Queue(size, 1, 512, each), []
    queue.keys.fill_(-1)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(24):
        for numbers in torch.randperm(512, generator=generator).split(8):
            found += torch.isin(numbers, queue.keys[:, 0].long()).tolist() if epoch >= 4 else []
            queue.add(numbers.repeat(each)[:, None].float())
    # The formula is the limit of small batches, and these are 1/64 of an epoch; the standard error is 0.005.
    assert sum(found) / len(found) == pytest.approx(own_negatives(size, each * 512), abs=0.03)
