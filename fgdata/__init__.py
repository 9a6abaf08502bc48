"""fgdata: saliency boxes cached with the data, and box-guided views for contrastive learning."""

__version__ = "0.1.0"
