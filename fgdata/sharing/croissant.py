"""croissant.json: a description of a shard set for other programs, as JSON-LD (MLCommons Croissant 1.0).

http://mlcommons.org/croissant/1.0. Two record sets: `samples`, the rows of metadata.parquet, and `images`, the JPEGs
of the tars, joined to the samples by their key.
"""

from datetime import date
from pathlib import Path
from typing import Any

from ..datasets.terms import terms_of
from ..files.atomic import write_atomic
from ..files.regular import open_regular
from ..shards.faults import sha256
from ..shards.manifest import dump, list_shards
from ..shards.reader import ShardSet
from .metadata import METADATA, columns_of

CROISSANT = "croissant.json"
_PREFIXED = (
    "citeAs column dataBiases dataCollection extract field fileObject fileProperty fileSet format includes "
    "isLiveDataset jsonPath key md5 parentField path personalSensitiveInformation recordSet references regex repeated "
    "replace separator source subField transform"
).split()
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{name: f"cr:{name}" for name in _PREFIXED},
}
"""The names that Croissant 1.0 prescribes."""


def write_croissant(shards: ShardSet, path: Path, *, name: str, licence: str, repository: str | None) -> None:
    """Writes the description beside METADATA, which exists already.

    name: of the set. licence: its name or URL. repository: ORG/NAME of the set on the Hugging Face hub; None describes
    the files by their names alone.
    """
    page = f"https://huggingface.co/datasets/{repository}" if repository else None
    base = f"{page}/resolve/main/" if page else ""
    with open_regular(path.with_name(METADATA)) as file:
        digest = sha256(file)
    listed = list_shards(shards.manifest)
    tars = [_file(f"{one['name']}.tar", "application/x-tar", one["sha256"], base, one["bytes"]) for one in listed]
    images = {
        "@type": "cr:FileSet",
        "@id": "jpegs",
        "name": "jpegs",
        "containedIn": [{"@id": tar["@id"]} for tar in tars],
        "encodingFormat": "image/jpeg",
        "includes": "*.jpg",
    }
    dataset, count = shards.manifest["dataset"]["name"], sum(shards.splits.values())
    about: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": f"{count:,} images of the dataset {dataset}, each with the box of its object by "
        f"{', '.join(shards.detectors)}. Source of the images: {terms_of(dataset).words}.",
        "license": licence,
        "datePublished": date.today().isoformat(),
        "version": f"1.0.0+{shards.manifest['digest'][:12]}",
        "distribution": [_file(METADATA, "application/x-parquet", digest, base), *tars, images],
        "recordSet": [_samples(shards), _images()],
    }
    if repository:
        about |= {"url": page, "creator": {"@type": "sc:Organization", "name": repository.partition("/")[0]}}
    write_atomic(path, dump(about))


def _file(name: str, kind: str, digest: str, base: str, size: int | None = None) -> dict[str, Any]:
    sizes = {"contentSize": f"{size} B"} if size is not None else {}
    about = {"@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": base + name}
    return about | sizes | {"encodingFormat": kind, "sha256": digest}


def _samples(shards: ShardSet) -> dict[str, Any]:
    """The rows of metadata.parquet, without `boxes`: Croissant 1.0 has no lists of lists."""
    texts = {name: "sc:Text" for name in ("key", "id", "file", "class", "split", "shard")}
    kinds = texts | {name: "sc:Integer" for name in ("label", "width", "height")}
    boxes = set()
    for detector in shards.detectors:
        kinds |= zip(columns_of(detector), ("sc:Float", "sc:Text", "sc:Float"))
        boxes.add(columns_of(detector)[0])
    fields = []
    for name, kind in kinds.items():
        source = {"fileObject": {"@id": METADATA}, "extract": {"column": name}}
        fields.append(_field("samples", name, kind, source) | ({"repeated": True} if name in boxes else {}))
    return _records("samples", fields)


def _images() -> dict[str, Any]:
    """The JPEGs by key, which is their name in the tar up to the first dot."""
    source = {"fileSet": {"@id": "jpegs"}}
    name = source | {"extract": {"fileProperty": "filename"}, "transform": {"regex": "([0-9]+)"}}
    key = _field("images", "key", "sc:Text", name) | {"references": {"field": {"@id": "samples/key"}}}
    content = source | {"extract": {"fileProperty": "content"}}
    return _records("images", [key, _field("images", "image", "sc:ImageObject", content)])


def _records(name: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    """A record set whose rows are named by `key`."""
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "key": {"@id": f"{name}/key"}, "field": fields}


def _field(records: str, name: str, kind: str, source: dict[str, Any]) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": f"{records}/{name}", "name": name, "dataType": kind, "source": source}
