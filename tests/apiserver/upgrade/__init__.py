"""From an earlier commit to this one, while servers run."""
