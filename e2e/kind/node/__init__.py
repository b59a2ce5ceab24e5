"""The image of a kind node, made from the built Kubernetes parts, Debian packages and kind's own node files."""
