"""A contact sheet of views. A detector's box in the image and its mask in each view are outlined in one colour."""

from dataclasses import replace
from pathlib import Path

from PIL import Image

from fgdata.images import decode
from fgdata.shards.reader import box
from fgdata.views import Local, ViewSpec, load

from ..evaluate.subject import open_set
from ..printing import say
from ..runs.checkpoint import checked_config
from ..runs.files import whole
from ..runs.rundir import RunDir, check_is_run
from ..settings.pictures import Views
from .layout import layout
from .sheet import caption, check_rows, choose, extent, first_in, fitted, framed, pixels


def draw_views(flags: Views) -> Path:
    """Writes the sheet and returns its path: per row an image with its box, two views swapped in the batch, two more.

    The last two are pasted over images of the background sets, or are random resized crops when no set is named. A run
    with another crop adds two views with that.
    """
    path, shards, detector, backgrounds = flags.run, flags.shards, flags.detector, flags.backgrounds
    split, size, rows = flags.split, flags.size, len(flags.ids) or flags.rows
    spec, run = ViewSpec(), None
    if path is not None:
        check_is_run(path)
        run = RunDir(path)
        config = checked_config(run)
        spec, detector = config.views, detector or config.data.detector
        backgrounds = backgrounds or config.data.backgrounds
    data = open_set(shards, run)
    check_rows(rows, data, split)
    batch_size = rows
    if flags.ids:
        batch_size = min(max(2, rows), len(data.split(split)))  # a single image would have no other to be pasted on
        data = first_in(data, split, choose(data, split, flags.ids, rows, flags.seed), batch_size, flags.seed)
    reader = data.split(split)
    detector = detector or next((name for name in data.detectors if name != "gt"), "gt")
    sheets = []
    heads = [(f"image and its {detector} box", 1), ("SaliencySwap: over another image's object", 2)]
    heads.append(("SaliencySwap: over other backgrounds" if backgrounds else "RandomResizedCrop", 2))
    crops = [("saliency-swap", ()), ("saliency-swap" if backgrounds else "rrc", backgrounds)]
    if spec.crop not in ("saliency-swap", "rrc"):
        heads.append((f"the run's views: {spec.crop}", 2))
        crops.append((spec.crop, backgrounds))
    for crop, behind in crops:
        view = replace(spec.with_views(2), size=size, crop=crop, masks=True, plain=False, local=Local())
        options = {"split": split, "detector": detector, "seed": flags.seed, "backgrounds": behind}
        with load(data, views=view, batch_size=batch_size, shuffle=not flags.ids, **options) as loader:
            sheets.append(next(iter(loader)))
    index = sheets[0]["index"][:rows].tolist()
    originals, captions = [], []
    for number in index:
        sample = reader.read(number)
        rgb = decode(sample["jpg"], str(number))
        height, width = rgb.shape[:2]
        x, y, w, h = box(sample, detector) * (width, height, width, height)
        originals.append(framed(fitted(rgb, size), (x, y, x + w, y + h), size / max(width, height)))
        captions.append(caption(data, sample))
    views = [[pixels(sheet["views"][v, i].numpy(), spec) for sheet in sheets for v in range(2)] for i in range(rows)]
    masks = [[sheet["masks"][v, i, 0].numpy() for sheet in sheets for v in range(2)] for i in range(rows)]
    cells = [
        [original, *(framed(Image.fromarray(v), extent(m), 1.0) for v, m in zip(row, marks))]
        for original, row, marks in zip(originals, views, masks)
    ]
    sheet = layout(cells, captions, heads, size)
    out = flags.out or (path or Path()) / "views.png"
    with whole(out) as part:
        sheet.save(part, out.suffix)
    say(f"{out}: {rows} images of {data.path} ({split}), {size} px views")
    return out
