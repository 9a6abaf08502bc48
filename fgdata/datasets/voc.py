"""Boxes from XML files in the form of PASCAL VOC, read when their image is loaded: Oxford-IIIT Pets, Stanford Dogs.

Corners count from 1 and are both inside the box.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from .. import images
from ..errors import BadImage
from . import PixelBoxes, Record, parsing

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Annotated(parsing.Files):
    """Loads a Record: (the bytes of its file, its boxes in pixels). Boxes that are None are read from its XML file."""

    xml: str = "{id}.xml"
    """The XML file of an image, relative to `folder`."""

    def __call__(self, record: Record) -> tuple[bytes, PixelBoxes]:
        data, boxes = super().__call__(record)
        if record.boxes is None:
            path = self.folder / self.xml.format(id=record.id)
            size, boxes = read_boxes(f"{self.name}: image {record.id}", path)
            header = images.header(data, record.file)
            parsing.check_size(self.name, replace(record, size=size), (header.width, header.height))
        return data, boxes


def read_boxes(name: str, path: Path) -> tuple[tuple[int, int] | None, PixelBoxes]:
    """An XML file -> the image's (width, height) if it is stated, and the box of every object, in the file's order.

    BadImage, which `name` starts, if the file is not such an annotation, or has no object.
    """
    text = parsing.read_text(name, path)
    try:
        if "<!DOCTYPE" in text:  # the only place where XML can define entities that expand to gigabytes
            raise ValueError("it has a document type; annotations have none")
        root = ElementTree.fromstring(text)
        width, height = (int(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
        boxes = tuple(
            parsing.box_from_corners(*(_corner(entry, corner) for corner in CORNERS), first=1)
            for entry in root.iter("object")
        )
        if not boxes:
            raise ValueError("it has no object")
    except (ValueError, ElementTree.ParseError) as fault:
        raise BadImage(f"{name}: {path} is not an annotation in PASCAL VOC's form: {fault}") from None
    return ((width, height) if width > 0 and height > 0 else None), boxes


def _corner(entry: ElementTree.Element, corner: str) -> float:
    text = entry.findtext(f"bndbox/{corner}")
    if text is None:
        raise ValueError(f"an object has no bndbox/{corner}")
    return float(text)
