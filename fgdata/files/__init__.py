"""Files that are written safely: the one place that knows how, for both packages."""
