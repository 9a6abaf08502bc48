"""fgtrain: self-supervised objectives for fine-grained recognition, trained on fgdata shard sets."""
