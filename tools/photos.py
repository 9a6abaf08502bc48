"""The photographs of docs/saliency.md: four free photographs of scikit-image, each with the box of a detector.

    python tools/photos.py --saliency rbd --out docs/photos.jpg

The photographs and their licences, as scikit-image's documentation states them: Chelsea the cat (Stefan van der Walt)
and the coffee cup (Rachel Michetti) are CC0; the rocket (SpaceX) and the astronaut Eileen Collins (NASA) are in the
public domain. Each is drawn with its box, above its saliency map.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from fgdata.boxes.objective import Objective, solve
from fgdata.saliency import saliency_map, suit

NAMES = ("chelsea", "coffee", "rocket", "astronaut")
HEIGHT, GAP = 240, 6
BOX, GROUND = (226, 88, 34), (255, 255, 255)
LONGER_SIDE = 500
"""Images are shrunk to this before the map is computed, as photographs of the benchmark sets are."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saliency", default="rbd", help="a detector of fgdata list")
    parser.add_argument("--out", type=Path, default=Path("docs/photos.jpg"))
    flags = parser.parse_args()
    columns = [np.vstack([*draw(photograph(name), flags.saliency)]) for name in NAMES]
    gap = np.full((columns[0].shape[0], GAP, 3), GROUND, np.uint8)
    sheet = np.hstack([part for column in columns for part in (column, gap)][:-1])
    Image.fromarray(sheet).save(flags.out, quality=88)
    print(f"{flags.out}: {sheet.shape[1]} x {sheet.shape[0]} px")


def photograph(name: str) -> np.ndarray:
    """(H, W, 3) uint8, of the installed scikit-image; its longer side is at most LONGER_SIDE."""
    from skimage import data

    rgb = getattr(data, name)()
    scale = min(1.0, LONGER_SIDE / max(rgb.shape[:2]))
    return cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def draw(rgb: np.ndarray, detector: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> the photograph with its box, a white line, and the saliency map; each HEIGHT or GAP high."""
    found = saliency_map(detector, rgb, "photograph")
    left, top, width, height = solve(found, suit(Objective(), detector))[0]
    scale = HEIGHT / rgb.shape[0]
    size = (round(rgb.shape[1] * scale), HEIGHT)
    big = np.ascontiguousarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))
    corners = np.array([left, top, left + width, top + height]) * [*size, *size]
    l, t, r, b = np.clip(np.rint(corners), 2, [*size, *size] - np.array(3)).astype(int).tolist()  # noqa: E741
    cv2.rectangle(big, (l, t), (r, b), BOX, 3, cv2.LINE_AA)
    grey = cv2.resize((found * 255).astype(np.uint8), size, interpolation=cv2.INTER_LINEAR)
    return big, np.full((GAP, size[0], 3), GROUND, np.uint8), np.repeat(grey[..., None], 3, 2)


if __name__ == "__main__":
    main()
