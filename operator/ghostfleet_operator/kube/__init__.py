"""The operator's edge to Kubernetes: the client, the watches by kopf, the process. Only in here is either imported."""
