"""The laptop fleet: the objects of a cluster, read from files and run as local processes."""
