"""`fgdata show`: writes report.html, one self-contained page about a shard set and its boxes."""

import base64
import hashlib
import html
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from .. import images
from ..building.log import read_log
from ..building.plan import flatten
from ..errors import InputError, counted, describe
from ..files.atomic import write_atomic
from ..files.output import check_output
from ..shards.manifest import REENCODED, describe_objective, read_objective
from ..shards.reader import ShardSet, meta
from ..stores.place import Url
from .agreement import agree, join, name_sets, section
from .score import THRESHOLDS, Scored, describe_detectors, find_disagreements, read_boxes, table

THUMBNAIL_SIDE = 260
PALETTE = ("#ff5d5d", "#3fa7ff", "#ffb52e", "#9b6bff", "#2bc48a", "#ff7ad1")
PALETTE += ("#b3261e", "#1f5fb4", "#a8731a", "#5b2fb8", "#12805a", "#b0388f")  # a second set often has as many boxes
TRUTH = "#ffffff"
WORST, SLOWEST = 12, 8
_SETTINGS = ("dataset", "images", "objective", "shard_samples", "plugins")
"""Of the manifest: what the user chose. The page also has the whole manifest, folded."""


def write_report(path: Path | Url, out: Path, samples: int = 96, other: Path | Url | None = None) -> Path:
    """Writes the page about a shard set.

    Args:
        path: The folder of the shard set.
        out: The file to write; its name ends in .html or .htm.
        samples: Images to show, 1 to 1,000, besides the worst and the slowest. The figures cover all images.
        other: A second set of the same images; its boxes are shown beside the first's.

    Returns:
        `out`.

    Raises:
        InputError: The set cannot be read, or the file cannot be written.

    Example:
        write_report(Path("shards/cub"), Path("cub.html"), samples=200)
    """
    if not 1 <= samples <= 1000:
        raise InputError(f"--samples {samples}: must be 1 to 1,000, for example --samples 96")
    shards = ShardSet.open(path)
    check_output(out, (".html", ".htm"), "--out")
    if not out.parent.is_dir():
        raise InputError(f"{out} cannot be written: there is no folder {out.parent}. Create it, or set --out FILE")
    scored, title, about = read_boxes(shards), shards.path.resolve().name, describe_detectors(shards)
    objective, sets = _objective(shards), {"": shards}
    if other is not None:
        second = ShardSet.open(other)
        scored, title = join(shards, scored, second, read_boxes(second)), f"{title} and {second.path.resolve().name}"
        named = dict(zip(name_sets(shards, second), (shards, second)))
        about = {f"{a}-{b}": row for a, s in named.items() for b, row in describe_detectors(s).items()}
        objective = " and ".join(f"{_objective(s)} ({name})" for name, s in named.items())
        sets = {f" of {name}": s for name, s in named.items()}
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(name for name in scored.boxes if name != "gt")}
    known, agreement = scored.has_truth, agree(scored)
    sections = [
        _head(sets, title, scored, objective),
        _score(scored, colours, about) if known else "",
        section(agreement, colours, about) if other is not None or not known else "",
        _histograms(scored, colours),
        *(_cost(s, of) for of, s in sets.items()),
        _images(shards, scored, colours, samples, {} if known else {"where detectors disagree most": agreement.mean}),
        *(_settings(s, of) for of, s in sets.items()),
    ]
    parts = {"title": html.escape(title), "body": "\n".join(sections), "script": _script_hash()}
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _PAGE)
    try:
        write_atomic(out, page.encode("utf-8", "backslashreplace"))
    except OSError as fault:
        raise InputError(f"{out} cannot be written: {describe(fault)}. Name another file: --out FILE") from None
    return out


def _objective(shards: ShardSet) -> str:
    with suppress(InputError):  # of a newer format
        grid = read_objective(shards.manifest).grid
        return f"{describe_objective(shards.manifest)}, on a {grid} x {grid} grid"
    return describe_objective(shards.manifest)


def _head(sets: dict[str, ShardSet], name: str, scored: Scored, objective: str) -> str:
    """Title, tiles and summary. sets: by what the tiles of each end with, "" for a single one."""
    shards = next(iter(sets.values()))
    facts = [(f"{count:,}", f"{split} images{of}") for of, s in sets.items() for split, count in s.splits.items()]
    classes = "class" if len(shards.classes) == 1 else "classes"
    facts += [(f"{len(shards.classes):,}", classes), (f"{len(scored.boxes)}", "boxes per image")]
    if len(sets) > 1:
        facts.append((f"{len(scored.id):,}", "images in both sets"))
    facts += [(number, f"{noun}{of}") for of, s in sets.items() for number, noun in _exceptions(s.manifest)]
    tiles = "".join(f"<div class=tile><b>{number}</b><span>{html.escape(noun)}</span></div>" for number, noun in facts)
    summary = f"Dataset {shards.manifest['dataset']['name']}, {counted(len(scored.id), 'image')}. "
    summary += f"Boxes by {', '.join(scored.boxes)}; objective {objective}"
    title = f"<p class=kind>fgdata shard set</p><h1>{html.escape(name)}</h1>"
    return f"{title}<p class=sub>{html.escape(summary)}.</p><div class=tiles>{tiles}</div>"


def _exceptions(manifest: dict) -> Iterator[tuple[str, str]]:
    """Numbers of a set's images that were treated in a special way, and what they count."""
    for detector, counts in manifest["fallbacks"].items():
        yield f"{sum(counts.values()):,}", f"whole-image boxes from {detector}"
    for key, noun in (("boxes_clipped", "images with clipped ground-truth boxes"), ("reencoded", "re-encoded")):
        if manifest[key]:
            yield f"{manifest[key]:,}", noun
    if manifest["skipped"]:
        yield f"{len(manifest['skipped']):,}", "skipped"


def _score(scored: Scored, colours: dict[str, str], about: dict[str, dict]) -> str:
    scores = table(scored, about)
    names = {"whole": "whole image", "centred": "centred 70 % box"}
    rows = ""
    for name, row in (scores["detectors"] | scores["baselines"]).items():
        colour = colours.get(name, "#8a94a6")
        bars = "".join(
            f"<td class=bar><i style='width:{row[key]:.1%};background:{colour}'></i><span>{row[key]:.3f}</span></td>"
            for key in ("mean_iou", *THRESHOLDS)
        )
        time = f"{row['seconds'] * 1e3:,.1f} ms" if row.get("seconds") else ""
        cells = f"<td>{row['n']:,}</td><td>{time}</td><td>{html.escape(row.get('trained_on', ''))}</td>"
        rows += f"<tr><th>{html.escape(names.get(name) or name)}</th>{bars}{cells}</tr>"
    shares = "<td>CorLoc (IoU ≥ 0.5)</td><td>IoU ≥ 0.7</td><td>IoU ≥ 0.9</td>"
    head = f"<tr><th>box</th><td>mean IoU</td>{shares}<td>images</td><td>per image</td><td>trained on</td></tr>"
    return f"<h2>Boxes against the ground truth</h2><table class=score>{head}{rows}</table>"


def _histograms(scored: Scored, colours: dict[str, str]) -> str:
    charts = ""
    for name, colour in colours.items():
        area = scored.boxes[name][:, 2] * scored.boxes[name][:, 3]
        charts += _histogram(f"{name}: box area as a share of the image", area, colour)
        overlap = scored.iou[name][~np.isnan(scored.iou[name])]
        if len(overlap):
            charts += _histogram(f"{name}: IoU with the ground truth", overlap, colour)
    return f"<h2>Distributions</h2><div class=charts>{charts}</div>" if charts else ""


def _histogram(title: str, values: np.ndarray, colour: str) -> str:
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    top = max(1, counts.max())
    bars = "".join(
        f"<rect x='{i * 15 + 1}' y='{90 - 88 * count / top:.1f}' width='13' height='{88 * count / top:.1f}' "
        f"fill='{colour}'><title>{i / 20:.2f} to {(i + 1) / 20:.2f}: {count:,}</title></rect>"
        for i, count in enumerate(counts)
    )
    axis = "".join(
        f"<text x='{300 * x:.0f}' y='104' text-anchor='{a}'>{x:g}</text>"
        for x, a in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    caption = f"<figcaption>{html.escape(title)} <em>median {np.median(values):.2f}</em></figcaption>"
    return f"<figure>{caption}<svg viewBox='0 0 300 108'><path d='M0 90H300'/>{bars}{axis}</svg></figure>"


def _images(
    shards: ShardSet, scored: Scored, colours: dict[str, str], samples: int, lowest: dict[str, np.ndarray]
) -> str:
    """`lowest`: name of a group -> (N,) figures; the images with the lowest are shown as that group."""
    groups, known = {"sample": _spread(scored.label, samples)}, scored.has_truth
    for name, values in lowest.items():
        groups[name] = [int(i) for i in np.argsort(values, kind="stable")[:WORST] if not np.isnan(values[i])]
    for name in colours:
        overlap = scored.iou[name]
        ranked = np.argsort(np.where(np.isnan(overlap), 2, overlap), kind="stable")
        groups[f"worst of {name}"] = [int(i) for i in ranked[:WORST] if not np.isnan(overlap[i])]
        groups[f"whole-image box from {name}"] = [i for i, kind in enumerate(scored.fallback[name]) if kind][:WORST]
    for (first, second), numbers in find_disagreements(scored, WORST).items():
        groups[f"{first} and {second} disagree most"] = numbers
    slow = {entry["id"]: entry["seconds"] for line in read_log(shards) for entry in line["slowest"]}
    slowest = sorted((i for i, name in enumerate(scored.id) if name in slow), key=lambda i: -slow[scored.id[i]])
    groups["slowest to build"] = slowest[:SLOWEST]
    chosen: dict[int, list[str]] = {}
    for group, numbers in groups.items():
        for number in numbers:
            chosen.setdefault(number, []).append(group)
    cards = "".join(_card(shards, scored, number, names, colours, slow) for number, names in chosen.items())
    choices = "".join(
        f"<option value='{html.escape(group)}'>{html.escape(group)} ({len(numbers):,})</option>"
        for group, numbers in groups.items()
        if numbers
    )
    embedded = Counter(scored.label[list(chosen)].tolist())
    classes = "".join(
        f"<option value='{i}'>{html.escape(name)} ({embedded[i]})</option>"
        for i, name in enumerate(shards.classes)
        if embedded[i]
    )
    keys = "".join(
        f"<label style='--c:{colour}'><input type=checkbox checked data-box='{name}'>{name}</label>"
        for name, colour in (({"truth": TRUTH} if known else {}) | colours).items()
    )
    controls = (
        f"<div class=controls><select id=group><option value=''>all shown ({len(chosen):,})</option>{choices}</select>"
        f"<select id=class><option value=''>all classes</option>{classes}</select>{keys}<span id=count></span></div>"
    )
    missing = int(np.isin(np.arange(len(shards.classes)), scored.label[list(chosen)], invert=True).sum())
    text = f"{len(chosen):,} of {counted(len(scored.label), 'image')} are on this page; the figures above cover all."
    classes_without = f"{missing:,} classes have" if missing != 1 else "1 class has"
    text += f" {classes_without} no image here; a larger <code>--samples</code> shows more." if missing else ""
    text += " Dashed: the ground truth. Coloured: a detector's box, with its IoU below the image." if known else ""
    return f"<h2>Images and their boxes</h2><p class=sub>{text}</p>{controls}<div class=grid>{cards}</div>"


def _spread(labels: np.ndarray, samples: int) -> list[int]:
    """(N,) labels -> the numbers of at most `samples` samples, spread over the classes and over each class."""
    rank = np.zeros(len(labels))  # of a sample within its class, in random order
    for value in np.unique(labels):
        members = np.flatnonzero(labels == value)
        rank[np.random.default_rng(int(value)).permutation(members)] = np.arange(len(members))
    return sorted(int(i) for i in np.lexsort((labels, rank))[:samples])


def _card(shards: ShardSet, scored: Scored, number: int, groups: list[str], colours: dict[str, str], slow: dict) -> str:
    sample = shards.split(str(scored.split[number])).read(int(scored.number[number]))
    info = meta(sample)
    place = f"{shards.path}: sample {scored.number[number]} of split {scored.split[number]}"
    picture = images.shrink(images.decode(sample["jpg"], place, THUMBNAIL_SIDE), THUMBNAIL_SIDE)
    height, width = picture.shape[:2]
    source = base64.b64encode(images.encode_jpeg(picture, 80)).decode()
    shapes = "".join(_rectangle(box, width, height, TRUTH, "truth") for box in scored.truth[number])
    shapes += "".join(
        _rectangle(scored.boxes[name][number], width, height, colour, name) for name, colour in colours.items()
    )
    overlaps = " · ".join(
        f"<b style='color:{colour}'>{scored.iou[name][number]:.2f}</b>"
        for name, colour in colours.items()
        if len(scored.truth[number])
    )
    fallbacks = {name: scored.fallback[name][number] for name in colours}
    notes = "".join(f" <em>{name}: {html.escape(kind)} map</em>" for name, kind in fallbacks.items() if kind)
    notes += f" <em>{slow[info['id']] * 1e3:,.0f} ms</em>" if info["id"] in slow else ""
    notes = f"<span>{overlaps}{notes}</span>" if overlaps or notes else ""
    name = info["class"] if len(shards.classes) > 1 else info["file"]
    title = html.escape(f"{info['file']} ({info['width']} x {info['height']}, {info['split']})")
    return (
        f"<figure class=card style='--aspect:{width / height:.4f}' "
        f"data-class='{scored.label[number]}' data-groups='{html.escape(json.dumps(groups))}'>"
        f"<div class=photo><img src='data:image/jpeg;base64,{source}' width={width} height={height} alt=''>"
        f"<svg viewBox='0 0 {width} {height}'>{shapes}</svg></div>"
        f"<figcaption title='{title}'><span>{html.escape(name)}</span>{notes}</figcaption></figure>"
    )


def _rectangle(box: np.ndarray, width: int, height: int, colour: str, name: str) -> str:
    left, top, wide, high = (float(value) for value in box * np.array([width, height, width, height]))
    place = f"x='{left:.1f}' y='{top:.1f}' width='{wide:.1f}' height='{high:.1f}'"
    dash = " stroke-dasharray='5 4'" if name == "truth" else ""
    outline = f"<rect {place} stroke='#0009' stroke-width='4'/><rect {place} stroke='{colour}' stroke-width='2'{dash}/>"
    return f"<g data-of='{name}'>{outline}</g>"


def _cost(shards: ShardSet, of: str) -> str:
    """Section on the size and time of re-encoding, from the build's log; empty when no image was re-encoded. of: the
    end of its heading."""
    manifest, log = shards.manifest, read_log(shards)
    if not manifest["reencoded"]:
        return ""
    settings, limit = manifest["images"], f"no --max-side: only images that were {REENCODED}"
    if settings["max_side"]:
        limit = f"--max-side {settings['max_side']}"
    total = sum(shards.splits.values())
    how = f"{limit}, --quality {settings['quality']}, --chroma {settings.get('chroma', '420')}"
    rows = [("images re-encoded", f"{manifest['reencoded']:,} of {total:,} ({how})")]
    if sum(line["samples"] for line in log) == total and all("image_bytes" in line for line in log):
        before, after = (sum(line["image_bytes"][i] for line in log) for i in (0, 1))
        change = f"{after / before - 1:+.0%}" if before else ""
        rows.append(("bytes of all images", f"{before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB stored ({change})"))
        rows.append(("time to encode", f"{sum(line['seconds'].get('encode', 0) for line in log):,.1f} s of one core"))
    table = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f"<h2>Cost of re-encoding{html.escape(of)}</h2><table>{table}</table>"


def _settings(shards: ShardSet, of: str) -> str:
    """Build times and settings. of: the end of their headings."""
    manifest = {key: value for key, value in shards.manifest.items() if key != "splits"}
    manifest["dataset"] = {key: value for key, value in manifest["dataset"].items() if key != "classes"}
    stages: dict[str, float] = {}
    log = read_log(shards)
    for line in log:
        for name, seconds in line["seconds"].items():
            stages[name] = stages.get(name, 0.0) + seconds
    total, samples = sum(stages.values()), sum(line["samples"] for line in log)
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td class=bar><i style='width:{seconds / total:.1%};background:#8a94a6'></i>"
        f"<span>{seconds:,.1f} s</span></td><td>{seconds / samples * 1e3:,.2f} ms per image</td></tr>"
        for name, seconds in sorted(stages.items(), key=lambda stage: -stage[1])
        if total
    )
    chosen = {key: manifest[key] for key in _SETTINGS if key in manifest}
    chosen["dataset"] = manifest["dataset"].get("settings", {})
    table = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(json.dumps(value, ensure_ascii=False))}</td></tr>"
        for key, value in flatten(chosen).items()
    )
    times = f"<h2>Build time by stage{html.escape(of)}</h2><table>{rows}</table>" if rows else ""
    text = html.escape(json.dumps(manifest, indent=1, ensure_ascii=False))
    summary = "<summary>manifest.json, without the lists of shards and classes</summary>"
    return (
        f"{times}<h2>Settings{html.escape(of)}</h2><table>{table}</table><details>{summary}<pre>{text}</pre></details>"
    )


def _script_hash() -> str:
    """Of the page's own script: the only one that a browser runs on the page, whatever text a set contains."""
    script = _PAGE.split("<script>")[1].split("</script>")[0]
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


_PAGE = (Path(__file__).parent / "page.html").read_text("utf-8")
