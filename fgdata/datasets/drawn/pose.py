"""The pose of a drawn bird and its place in the image. Both are independent of the class.

Bird units: 1 is about the length of a body without head and tail; x points forward (towards the beak), y down. The body
frame rotates with the body's tilt, the head frame has its own pitch, feet and perch are in the untilted world frame.
"""

from dataclasses import dataclass

import numpy as np

HEAD = 0.25  # radius of the head
NECK = np.array([0.38, -0.20])  # in the body frame
HIP = np.array([-0.02, 0.24])
TAIL = np.array([-0.50, -0.02])


@dataclass(frozen=True)
class Pose:
    """Angles in radians, place in pixels of the image."""

    action: str
    """perched, flapping (perched, a wing raised) or flying."""
    facing: int
    """1 right, -1 left."""
    tilt: float
    """Rotation that lifts the front: 0 is level, about 1 upright."""
    head_pitch: float
    """Rotation that lifts the beak."""
    head_width: float
    """Foreshortening of a head turned towards or away from the viewer; below 0 the bird looks backwards."""
    tail_lift: float
    """Rotation that lifts the tail relative to the body."""
    wing_droop: float
    unit: float
    """Pixels per bird unit."""
    x: float
    y: float
    """Body centre."""

    def world(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) bird units -> (N, 2) image pixels."""
        return points * [self.facing * self.unit, self.unit] + [self.x, self.y]

    def body(self, points: np.ndarray) -> np.ndarray:
        return self.world(rotated(points, self.tilt))

    def head_centre(self) -> np.ndarray:
        return rotated(NECK[None], self.tilt)[0] + [0.07, -0.16]

    def head(self, points: np.ndarray) -> np.ndarray:
        return self.world(rotated(points, self.head_pitch) * [self.head_width, 1] + self.head_centre())

    def tail(self, points: np.ndarray) -> np.ndarray:
        """Points with the tail's root at the origin."""
        return self.body(rotated(points, -self.tail_lift) + TAIL)

    def feet(self) -> np.ndarray:
        """(2, 2) positions of the two feet in the world frame, in bird units."""
        hip = rotated(HIP[None], self.tilt)[0]
        return hip + np.array([[0.00, 0.22], [0.13, 0.20]])


def rotated(points: np.ndarray, angle: float) -> np.ndarray:
    """(N, 2) rotated; a positive angle lifts +x (y points down)."""
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, -s], [s, c]])


def random_pose(rng: np.random.Generator, width: int, height: int) -> Pose:
    """A pose that fits the image with the largest crest, beak and tail of any class."""
    action = rng.choice(["perched", "flapping", "flying"], p=[0.78, 0.1, 0.12])
    facing = 1 if rng.random() < 0.5 else -1
    tilt = rng.uniform(0.0, 0.5) if action == "flying" else rng.triangular(-0.15, 0.35, 1.15)
    looks_back = action == "perched" and rng.random() < 0.14
    width_of_head = rng.uniform(-1.0, -0.85) if looks_back else rng.uniform(0.8, 1.0)
    pose = Pose(
        action=str(action),
        facing=facing,
        tilt=tilt,
        head_pitch=rng.normal(0.0, 0.14) + 0.12 * tilt,
        head_width=width_of_head,
        tail_lift=rng.normal(0.0, 0.16) + (0.0 if action == "flying" else 0.2),
        wing_droop=rng.normal(0.0, 0.06),
        unit=1.0,
        x=0.0,
        y=0.0,
    )
    low, high = _extent(pose)
    room = min(width / (high[0] - low[0]), height / (high[1] - low[1]))
    unit = room * rng.uniform(0.58, 1.02)  # above 1 a part may extend beyond the image, as in photographs
    slack = np.array([width, height]) - unit * (high - low)
    at = np.sort([0 * slack, slack], axis=0)
    x, y = rng.uniform(at[0], at[1]) - unit * low
    return Pose(**{**vars(pose), "unit": float(unit), "x": float(x), "y": float(y)})


def _extent(pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Corners, in bird units, of the bounding box of all parts of any class."""
    parts = [
        pose.body(np.array([[0.5, 0.1], [0.0, 0.36], [0.0, -0.3], [-0.4, -0.2], [-0.7, 0.0]])),
        pose.head(np.array([[0.66, 0.05], [0.0, -0.49], [-0.3, -0.5], [-0.24, 0.0]])),
        pose.tail(np.array([[-0.62, -0.2], [-0.62, 0.2]])),
    ]
    if pose.action == "flying":
        parts.append(pose.body(np.array([[-0.42, -1.0], [0.2, -0.8]])))
    else:
        parts.append(pose.world(pose.feet() + np.array([0.0, 0.06])))
        if pose.action == "flapping":
            parts.append(pose.body(np.array([[-0.42, -1.0], [0.2, -0.8]])))
    points = np.concatenate(parts)
    return points.min(0), points.max(0)
