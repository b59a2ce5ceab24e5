"""CRDs, and the reference of their fields, from the models: `python -m ghostfleet_operator.kinds.crd [--check]`.

Writes `crds/`, the copies in the Helm chart and `docs/crds.md`; with `--check` it only says what differs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel

from ghostfleet_operator.kinds.generated import command
from ghostfleet_operator.kinds.layout import to_lines
from ghostfleet_operator.kinds.meta import GROUP, VERSION
from ghostfleet_operator.kinds.profile import ClusterLatencyProfile, LatencyProfile
from ghostfleet_operator.kinds.reference import Page, reference
from ghostfleet_operator.kinds.rules import (
    PROFILE_LATER,
    PROFILE_RULES,
    SERVER_LATER,
    SERVER_RULES,
    Later,
    Rule,
    add_rules,
)
from ghostfleet_operator.kinds.schema import NoSchemaError, Schema, brief, silent, structural
from ghostfleet_operator.kinds.server import SimulatedModelServer

MOST_BYTES: Final = 60_000
"""Size of a CRD: a quarter of what client-side apply keeps in an annotation, and room in etcd for more versions."""
_LONGEST_DESCRIPTION: Final = 80
"""What a field means in more words is in the reference of the docs."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; `wide` ones are shown with `-o wide` only."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False
    description: str = ""


def _condition(aspect: str, field: str = "status") -> str:
    return f'.status.conditions[?(@.type=="{aspect}")].{field}'


@dataclass(frozen=True, slots=True)
class Kind:
    """A model with what kubectl should know about it."""

    model: type[BaseModel]
    plural: str
    short: str
    columns: tuple[Column, ...]
    profile: str
    """Path of the profile in its spec."""
    rules: tuple[Rule, ...] = ()
    later: tuple[Later, ...] = ()
    """What is checked beside a profile: by the API server, and by the operator only."""
    scale: bool = False
    namespaced: bool = True
    pending: Mapping[str, str] = field(default_factory=dict)
    """The condition that an object is made with, so that nobody takes one that was not looked at for done."""

    @property
    def name(self) -> str:
        """Name of the kind."""
        return self.model.__name__


_AGE: Final = Column("Age", ".metadata.creationTimestamp", "date")
_PROFILE_COLUMNS: Final = (
    Column("Backend", ".spec.backend", description="Model of times in use"),
    Column("Evidence", ".spec.evidence", description="Where its numbers come from"),
    Column("Valid", _condition("Valid"), description="Whether the profile can be used"),
    Column("Used-by", ".status.usedBy", "integer", description="Servers that refer to it"),
    _AGE,
    Column("Hash", ".status.hash", wide=True, description="Hash of the profile"),
)
KINDS: Final = (
    Kind(
        SimulatedModelServer,
        "simulatedmodelservers",
        "sms",
        (
            Column("Ready", _condition("Ready"), description="Whether what is wanted is what runs"),
            Column("Reason", _condition("Ready", "reason"), description="Why it is, or is not yet"),
            Column("Desired", ".spec.replicas", "integer", description="Pods that are wanted, unless suspended"),
            Column("Replicas", ".status.readyReplicas", "integer", description="Pods that take requests"),
            Column("Profile", ".spec.profileRef.name", description="Profile that is referred to; empty for an own one"),
            Column("Synced", _condition("ProfileSynced"), description="Whether every Ready pod runs the profile"),
            Column("Model", ".spec.model.name", description="Model that is claimed to be served"),
            _AGE,
            Column("Hash", ".status.profile.desired.hash", wide=True, description="Hash that pods should run"),
            Column("Revision", ".status.profile.desired.revision", "integer", wide=True, description="Its revision"),
            Column("URL", ".status.url", wide=True, description="Address of the Service inside the cluster"),
        ),
        profile="profile",
        rules=SERVER_RULES,
        later=SERVER_LATER,
        scale=True,
        pending={
            "type": "Ready",
            "status": "Unknown",
            "reason": "Reconciling",
            "message": "waiting for the operator",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        },
    ),
    Kind(LatencyProfile, "latencyprofiles", "lprof", _PROFILE_COLUMNS, profile=""),
    Kind(ClusterLatencyProfile, "clusterlatencyprofiles", "clprof", _PROFILE_COLUMNS, profile="", namespaced=False),
)


def openapi(kind: Kind) -> Schema:
    """The schema of a kind's objects."""
    own = kind.model.model_fields
    status = own["status"].annotation
    status_model = next(arg for arg in getattr(status, "__args__", (status,)) if isinstance(arg, type))
    spec_model = own["spec"].annotation
    if not (isinstance(spec_model, type) and issubclass(spec_model, BaseModel) and issubclass(status_model, BaseModel)):
        raise TypeError(f"{kind.name} needs a spec and a status")
    whole = kind.model.model_json_schema(by_alias=True)
    schema: Schema = {
        "type": "object",
        "description": " ".join(whole["description"].split()),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"`{GROUP}/{VERSION}`."},
            "kind": {"type": "string", "description": f"`{kind.name}`."},
            "metadata": {"type": "object"},
            "spec": structural(spec_model),
            "status": structural(status_model, defaults=False),
        },
    }
    if rules := whole.get("x-kubernetes-validations"):
        schema["x-kubernetes-validations"] = rules
    if kind.pending:
        schema["properties"]["status"]["default"] = {"conditions": [dict(kind.pending)]}
    add_rules(schema["properties"]["spec"], kind.rules)
    add_rules(schema["properties"]["spec"], PROFILE_RULES, kind.profile)
    return schema


def later(kind: Kind) -> tuple[Later, ...]:
    """What only the operator checks in a kind's objects; paths are those of the spec."""
    return (*kind.later, *(rule.below(kind.profile) for rule in PROFILE_LATER))


def crd(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind."""
    subresources: dict[str, Any] = {"status": {}}
    if kind.scale:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": subresources,
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
        "schema": {"openAPIV3Schema": _explained(kind)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short],
                "categories": ["ghostfleet"],
            },
            "versions": [version],
        },
    }


def _explained(kind: Kind) -> Schema:
    """The schema with descriptions for `kubectl explain`."""
    schema = brief(openapi(kind), _LONGEST_DESCRIPTION)
    if kind.profile:
        # The kinds of profiles say it, and the description of this field says so.
        fields_of = schema["properties"]["spec"]["properties"]
        fields_of[kind.profile] = silent(fields_of[kind.profile]) | {
            "description": fields_of[kind.profile]["description"]
        }
    return schema


def _column(column: Column) -> dict[str, Any]:
    made: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.description:
        made["description"] = column.description
    return made | ({"priority": 1} if column.wide else {})


_HEADER: Final = "# Made from the models by `make crds`; do not edit.\n"


def manifest(kind: Kind) -> str:
    """The CRD of a kind as YAML."""
    text = _HEADER + to_lines(crd(kind))
    size = len(text.encode())
    if size > MOST_BYTES:
        raise ValueError(f"the CRD of {kind.name} has {size} bytes, more than {MOST_BYTES}: say less in it")
    return text


def chart_template(kind: Kind) -> str:
    """The CRD of a kind as a template of the Helm chart, where `crds.enabled` and `crds.keep` decide about it."""
    tree = crd(kind)
    spec = to_lines({"spec": tree["spec"]})
    if "{{" in spec:
        raise ValueError(f"the CRD of {kind.name} holds text that Helm would take for a template")
    wanted = ".Values.crds.enabled" if kind.namespaced else "and .Values.crds.enabled .Values.clusterProfiles"
    return (
        "{{- /* Made from the models by `make crds`; do not edit. */ -}}\n"
        f"{{{{- if {wanted} }}}}\n"
        f"apiVersion: {tree['apiVersion']}\n"
        f"kind: {tree['kind']}\n"
        "metadata:\n"
        f"  name: {tree['metadata']['name']}\n"
        "  labels:\n"
        '    {{- include "ghostfleet.labels" . | nindent 4 }}\n'
        "  {{- if .Values.crds.keep }}\n"
        "  annotations:\n"
        "    helm.sh/resource-policy: keep\n"
        "  {{- end }}\n"
        f"{spec}"
        "{{- end }}\n"
    )


def generated() -> dict[str, str]:
    """Every generated file: its path from the project's root, and its text."""
    files = {}
    for kind in KINDS:
        files[f"crds/{GROUP}_{kind.plural}.yaml"] = manifest(kind)
        files[f"charts/ghostfleet/templates/crds/{kind.plural}.yaml"] = chart_template(kind)
    files["docs/crds.md"] = reference([Page(kind.name, _scope(kind), openapi(kind), later(kind)) for kind in KINDS])
    return files


def _scope(kind: Kind) -> str:
    return f"{'Namespaced' if kind.namespaced else 'Of the cluster'}; short name `{kind.short}`."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    prog, differs = "python -m ghostfleet_operator.kinds.crd", "differs from the models; run `make crds`"
    try:
        return command(prog, __doc__, generated, arguments, differs=differs)
    except (NoSchemaError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
