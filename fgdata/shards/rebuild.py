"""The command that builds a set again, from its manifest, for messages."""

import shlex
from pathlib import Path

import numpy as np

from ..stores.place import Url

_SAME = ("classes", "images_per_class", "size", "seed", "level", "split_folders", "test_fraction", "split_seed")
_FLAGS = {name: name for name in _SAME} | {f"subset_{name}": name for name in ("classes", "images_per_class")}
"""Setting of a dataset in a manifest -> the option that sets it."""
_WITH_FILES = {
    "onnx": "onnx:FILE",
    "maps": "maps:DIR",
    "scda": "scda:RUN",
    "tokencut": "tokencut:RUN",
    "lost": "lost:RUN",
}
"""Families of detectors whose files a manifest does not name."""
_DEFAULTS = {"k": 2.0, "grid": 64, "quality": 90, "shard_samples": 256}
"""Of build-shards: these are not printed. A test compares them with the command's."""


def build_command(manifest: dict, out: Path | Url, *, keep_maps: bool = False) -> str:
    """The `fgdata build-shards` command that builds a set with the settings of a manifest.

    What a manifest does not record stays a word in capitals: FOLDER, the dataset's root, and the files of a detector.

    Args:
        manifest: As `read_manifest` returns it.
        out: The folder of the new set, or its URL.
        keep_maps: Store maps even if the manifest's set has none.
    """
    dataset, objective, images = (manifest[key] for key in ("dataset", "objective", "images"))
    if "coreset" in dataset.get("settings", {}):
        return f"fgdata coreset POOL --target SET --encoder NAME --budget N --out {shlex.quote(str(out))}"
    words = ["fgdata", "build-shards", *(word for name in manifest.get("plugins", ()) for word in ("--plugin", name))]
    words += ["--dataset", dataset["name"], *(["--root", "FOLDER"] if dataset["name"] != "drawn" else [])]
    words += _dataset_files(dataset)
    words += _flags({_FLAGS[key]: value for key, value in dataset.get("settings", {}).items() if key in _FLAGS})
    detectors = [_detector(*item) for item in manifest["detectors"].items()]
    maps = keep_maps or "maps" in manifest
    words += ["--saliency", *detectors, *(["rbd"] if maps and manifest["detectors"].keys() <= {"gt"} else [])]
    if objective["name"] == "max-excess":
        used = "tau"
    else:
        used = "min_area" if objective.get("min_area") else "k"
        words += ["--objective", objective["name"]]
    words += _flags({key: objective.get(key) for key in (used, "grid")})
    words += _flags({key: images.get(key) for key in ("max_side", "quality", "chroma")})
    words += _flags({"shard_samples": manifest.get("shard_samples")})
    words += ["--keep-maps"] if maps else []
    words += ["--on-bad-image", "skip"] if manifest.get("skipped") else []
    return shlex.join([*words, "--out", str(out)])


def how_to_rebuild(place: Path | Url, manifest: dict) -> str:
    """What replaces a damaged set by a new one: a part of a sentence that ends in a command."""
    if isinstance(place, Url):
        build = build_command(manifest, place)
        command = {"hf": f"fgdata push FOLDER {place}", "s3": build, "gs": build}.get(place.scheme)
        return f"copy the set there again: {command}" if command else "copy the set to the server again"
    aside = shlex.join(["mv", str(place), f"{place}-damaged"])
    return f"move the set aside and rebuild it: {aside} && {build_command(manifest, place)}"


def build_beside(place: Path | Url, manifest: dict, suffix: str, *, keep_maps: bool = False) -> str:
    """`build_command` for a new set beside a folder, named after it: shards/cub and "-maps" -> shards/cub-maps."""
    folder = Path("shards") / place.name if isinstance(place, Url) else place if place.name else place.resolve()
    return build_command(manifest, folder.with_name(f"{folder.name}{suffix}"), keep_maps=keep_maps)


def _dataset_files(dataset: dict) -> list[str]:
    """The option for a file beside the images, which a manifest does not record: always where it has a default place,
    and for COCO's form if the classes are not those of COCO itself, which begin with person."""
    if dataset["name"] == "coco" and dataset.get("classes", [])[:1] != ["person"]:
        return ["--annotations", "JSON"]
    option = {"table": "--table", "imagenet100": "--class-list"}.get(dataset["name"])
    return [option, "FILE"] if option else []


def _detector(name: str, settings: dict) -> str:
    """A detector and its settings in a manifest -> as --saliency takes it: onnx:FILE,size=320x320,provider=cuda."""
    given = {}
    if name.startswith("onnx-") and "size" in settings:
        given = {"size": "x".join(map(str, settings["size"]))}
        given |= {key: ":".join(str(np.float32(x)) for x in settings[key]) for key in ("mean", "std")}
        given["output"] = settings["output"]
        given |= {"sigmoid": "yes"} if settings.get("sigmoid") else {}
    if "provider" in settings:  # CUDAExecutionProvider
        given["provider"] = settings["provider"].removesuffix("ExecutionProvider").lower()
    given |= {"threads": settings["threads"]} if "threads" in settings else {}
    return _WITH_FILES.get(name.partition("-")[0], name) + "".join(f",{key}={value}" for key, value in given.items())


def _flags(values: dict) -> list[str]:
    """Values that are set and not the default -> the words that set them."""
    given = [(name, value) for name, value in values.items() if value not in (None, _DEFAULTS.get(name))]
    return [word for name, value in given for word in (f"--{name.replace('_', '-')}", str(value))]
