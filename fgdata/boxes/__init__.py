"""From a saliency map to one box."""
