"""Whether CRDs are what an API reviewer of Kubernetes would want them to be: `python -m tools.crdlint crds/*.yaml`.

Each rule is a pure function of one CRD. What a rule says is from the API conventions
(kubernetes/community, contributors/devel/sig-architecture/api-conventions.md) and from the Kubernetes API linter, which
is for Go types only.
"""
