"""`rbd-centred` against loops over superpixels, and its claim: better boxes of birds than RBD's."""

import numpy as np
import pytest

from fgdata.boxes.geometry import clip_boxes, iou
from fgdata.boxes.objective import Objective, solve
from fgdata.images import decode
from fgdata.saliency import rbd, rbd_centred, superpixels


def naive_centred(graph):
    """The docstring's steps. RBD's own cues are reused, because test_saliency.py compares them with loops."""
    n = len(graph)
    distance = np.array([[np.linalg.norm(a - b) for b in graph.colour] for a in graph.colour])
    background, contrast, smooth = rbd.cues(graph, distance)
    background = [min(value, 1) for value in background]
    centre = [np.exp(-((y - 0.5) ** 2 + (x - 0.5) ** 2) / (2 * 0.3**2)) for y, x in graph.position]
    size = [(graph.labels == i).sum() for i in range(n)]

    def optimise(cue):
        cue = np.array(cue)
        cue = (cue - cue.min()) / (cue.max() - cue.min())
        cue = np.where(cue < rbd.otsu(cue), 0, cue)
        system = np.diag([smooth[i].sum() + 5 * background[i] + cue[i] for i in range(n)]) - smooth
        actual = np.linalg.solve(system, cue)
        return (actual - actual.min()) / (actual.max() - actual.min())

    scaled = (contrast - contrast.min()) / (contrast.max() - contrast.min())
    first = optimise([scaled[i] * centre[i] for i in range(n)])
    cue = []
    for i in range(n):
        like = [np.exp(-(distance[i, j] ** 2) / (2 * 12**2)) for j in range(n)]
        inside = [first[j] * centre[j] * size[j] for j in range(n)]
        outside = [(1 - first[j]) * (1 - centre[j] / 2) * size[j] for j in range(n)]
        thing = sum(like[j] * inside[j] for j in range(n)) / sum(inside)
        ground = sum(like[j] * outside[j] for j in range(n)) / sum(outside)
        cue.append(thing / (thing + ground) * centre[i])
    return np.minimum(2 * optimise(cue), 1)


@pytest.mark.parametrize("seed", range(2))
def test_centred_is_its_definition(seed):
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:60, :80]
    inside = ((rows - 28) / 16) ** 2 + ((columns - 44) / 18) ** 2 < 1
    image = np.where(inside[..., None], (180, 70, 50), (60, 120, 70)) + rng.normal(0, 12, (60, 80, 3))
    graph = superpixels.segment(np.clip(image, 0, 255).astype(np.uint8))
    actual = rbd_centred.saliency(graph)
    np.testing.assert_allclose(actual, naive_centred(graph), atol=1e-8)  # two systems with a condition of some 1e5
    painted = actual[graph.labels]
    assert painted[inside].mean() > 0.9
    assert painted[~inside].mean() < 0.1


@pytest.mark.slow
def test_centred_boxes_of_birds_are_better_than_those_of_rbd(real_data):
    folder = real_data / "cub50"
    files = [line.split() for line in (folder / "images.txt").read_text().splitlines()]
    truth = dict(line.split(maxsplit=1) for line in (folder / "bounding_boxes.txt").read_text().splitlines())
    overlaps = []
    for number, file in files[1::10]:  # odd ones: its constants were chosen on the even ones
        image = decode((folder / "images" / file).read_bytes(), file)
        boxes, _ = clip_boxes([[float(value) for value in truth[number].split()]], image.shape[1], image.shape[0])
        maps = (rbd.saliency_map(image), rbd_centred.saliency_map(image))
        overlaps.append([iou(solve(actual, Objective())[0], boxes[0]) for actual in maps])
    overlaps = np.array(overlaps)
    mean, corloc = overlaps.mean(0), (overlaps >= 0.5).mean(0)
    print(f"n {len(overlaps)}: mean IoU {mean.round(3)}, CorLoc {corloc.round(3)} of rbd and rbd-centred")
    gain = overlaps[:, 1] - overlaps[:, 0]
    assert gain.mean() > 2 * gain.std() / np.sqrt(len(gain))
    assert corloc[1] > corloc[0]
