"""What should be there: replicas with their configuration, and the objects of a cluster that make them; pure."""
