"""fgdata: saliency boxes cached with the data, and box-guided views for contrastive learning."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .views import ViewSpec, load

__version__ = "0.1.0"
__all__ = ["ViewSpec", "load"]


def __getattr__(name: str):
    """`fgdata.load` and `fgdata.ViewSpec` are imported on first use, so that `import fgdata` stays light."""
    if name in __all__:
        from . import views

        return getattr(views, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
