"""The endpoint picker of llm-d-router in front of fleets on this machine: found by a file, without Kubernetes.

Its newest releases are in no registry, so these tests run where somebody has built one: `--epp PATH`, and for those
with its sidecar `--pd-sidecar PATH`.
"""
