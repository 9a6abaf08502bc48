"""The graph of the DALI backend: encoded images and the numbers of a Geometry -> views, without random operators.

Traps: slice requires INT32, resize(size=) FLOAT and multi_paste's anchors INT32, or the first run fails with a type
error. multi_paste refuses a patch that exceeds its canvas. batch_permutation ignores no_fixed_points for a
single sample, so partners come from the Geometry. Arguments stay on the CPU: one on the GPU costs a transfer per step.
"""

from typing import Any

from ..errors import InputError
from .spec import ViewSpec

try:
    from nvidia.dali import fn, math, types
    from nvidia.dali.pipeline import pipeline_def
except ModuleNotFoundError as fault:
    if fault.name not in ("nvidia", "nvidia.dali"):  # it is installed, but lacks a part
        raise
    raise InputError(
        "The dali backend needs NVIDIA DALI, which is not installed: pip install nvidia-dali-cuda130 (for a driver of "
        "CUDA 12: pip install nvidia-dali-cuda120), or use backend threads."
    ) from None

UINT8, INT32, FLOAT = types.DALIDataType.UINT8, types.DALIDataType.INT32, types.DALIDataType.FLOAT
_RESIZE = {"interp_type": types.DALIInterpType.INTERP_TRIANGULAR, "antialias": True, "dtype": UINT8}


def resize(image, size):
    """Images, (2,) FLOAT (height, width) -> uint8 images, antialiased triangle filter."""
    return fn.resize(image, size=size, **_RESIZE)


def cut(image, start, shape):
    """Images, INT32 (x, y) and (w, h) in pixels -> that part of each. The arguments are named: a positional list would
    become a constant on the GPU next to a start on the CPU."""
    return fn.slice(image, start=start, shape=shape, axis_names="WH")


def paste(patch, anchors, background, size: int):
    """Patches, INT32 (2, 2) anchors [[0, 0], [y, x]], backgrounds -> (size, size, 3)."""
    return fn.multi_paste(background, patch, out_anchors=anchors, output_size=[size, size])


def place(patch, anchors, size: int):
    """Patches with one channel, anchors as of `paste` -> (size, size, 1), zero elsewhere."""
    return fn.multi_paste(patch, out_anchors=anchors[1:2], output_size=[size, size])


def blend(view, background, weight, solid):
    """The view where the weight (S, S, 1) is 255, the background where it is 0. solid: FLOAT scalar, at least which the
    weight is; on the device of the view."""
    share = math.max(fn.cast(weight, dtype=FLOAT), solid) / 255.0
    under: Any = fn.cast(background, dtype=FLOAT)
    return fn.cast(under + share * (fn.cast(view, dtype=FLOAT) - under), dtype=UINT8)


def blur(view, sigma):
    """Gaussian over 2 ceil(3 sigma) + 1 pixels; edges reflected without repeating the edge pixel."""
    return fn.gaussian_blur(view, sigma=sigma)


def recolour(view, colour, centre, mean):
    """A x + C m per pixel, clamped to [0, 255], float32."""
    shift = fn.reductions.sum(centre * mean, axes=[1])
    return math.clamp(fn.coord_transform(view, M=colour, dtype=FLOAT) + shift, 0.0, 255.0)


def solarise(view, chosen):
    """Values from 128 up, inverted where `chosen`, a FLOAT scalar on the device of the view, is 1."""
    return view + chosen * (view >= 128.0) * (255.0 - 2.0 * view)


def normalise(view, spec: ViewSpec, flip):
    """(S, S, 3) in [0, 255] -> (3, S, S) float32, mirrored where flip is 1."""
    mean, std = [255 * m for m in spec.mean], [255 * s for s in spec.std]
    return fn.crop_mirror_normalize(view, mirror=flip, mean=mean, std=std, dtype=FLOAT, output_layout="CHW")


def external(name: str, dtype, ndim: int, layout: str | None = None):
    return fn.external_source(name=name, dtype=dtype, ndim=ndim, layout=layout)


def decode(name: str, gpu: bool):
    """Decodes the JPEGs of input `name` to RGB images."""
    return fn.decoders.image(
        external(name, UINT8, 1),
        device="mixed" if gpu else "cpu",
        output_type=types.DALIImageType.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=gpu,  # interpolates chroma as libjpeg and every other backend do
    )


@pipeline_def(enable_conditionals=True)
def graph(spec: ViewSpec, gpu: bool, other_sets: bool):
    """Inputs `jpeg`, `lent` and, for view v of tensor t, `start-t{v}` ... `flip-t{v}` (see `Dali._feed`) -> the views
    of each tensor, then plain, then the mattes.

    other_sets: the background of view v is decoded from `background{v}`, JPEGs of other sets; else it is in the batch.
    """
    image = decode("jpeg", gpu)
    outputs = []
    whole: Any = None
    alpha: Any = None
    mattes = []
    if spec.needs_maps:
        alpha = external("alpha", UINT8, 3, "HWC")
        alpha = resize(alpha.gpu() if gpu else alpha, external("whole", FLOAT, 1))
    if spec.plain or spec.grey or (spec.pastes and not other_sets):
        whole = resize(image, [spec.size, spec.size])
    for name, shot in spec.shots.items():
        source = decode("lent", gpu) if name == "lent" else image
        for v in range(shot.views):
            tag = f"{name}{v}"
            start, shape = external(f"start-{tag}", INT32, 1), external(f"shape-{tag}", INT32, 1)
            target = external(f"size-{tag}", FLOAT, 1)
            view: Any = resize(cut(source, start, shape), target)
            matte: Any = None
            if shot.needs_maps:
                matte = resize(cut(alpha, start, shape), target)
            if shot.pastes or shot.grey:
                if shot.grey:
                    level = external(f"grey{v}", UINT8, 0)
                    background = fn.cast(whole * 0 + (level.gpu() if gpu else level), dtype=UINT8)
                elif other_sets:
                    background = resize(decode(f"background{v}", gpu), [shot.size, shot.size])
                else:
                    background = fn.permute_batch(whole, indices=external(f"partner{v}", INT32, 0))
                anchors = external(f"anchors{v}", INT32, 2)
                view = paste(view, anchors, background, shot.size)
                if shot.needs_maps:
                    matte = place(matte, anchors, shot.size)
                if shot.crop == "matte-paste":
                    solid = external(f"solid{v}", FLOAT, 0)
                    view = blend(view, background, matte, solid.gpu() if gpu else solid)
            if shot.crop == "centre":
                inset = external(f"inset{v}", INT32, 1)
                view = cut(view, inset, [shot.size, shot.size])
                if shot.needs_maps:
                    matte = cut(matte, inset, [shot.size, shot.size])
            mean = fn.reductions.mean(view, axes=[0, 1])
            sigma: Any = external(f"sigma-{tag}", FLOAT, 0)  # DALI rewrites an `if` on data as a split of the batch
            if sigma > 0:
                view = blur(view, sigma)
            centre = external(f"centre-{tag}", FLOAT, 2)
            if gpu:
                centre = centre.gpu()
            view = recolour(view, external(f"colour-{tag}", FLOAT, 2), centre, mean)
            if shot.chance("solarize", v):
                chosen = external(f"solarize-{tag}", FLOAT, 0)
                view = solarise(view, chosen.gpu() if gpu else chosen)
            flip = external(f"flip-{tag}", INT32, 0)
            outputs.append(normalise(view, shot, flip))
            if shot.mattes:
                mattes.append(
                    fn.crop_mirror_normalize(matte, mirror=flip, std=[255.0], dtype=FLOAT, output_layout="CHW")
                )
    if spec.plain:
        outputs.append(normalise(whole, spec, 0))
    return tuple(outputs + mattes)
