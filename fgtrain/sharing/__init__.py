"""Results for other people: `fgtrain push`."""
