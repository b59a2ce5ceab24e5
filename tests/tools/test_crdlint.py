"""The linter of CRDs: a clean one passes, and for every rule there is one that breaks it and is found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.crdlint.__main__ import RULES, lint, main
from tools.crdlint.exempt import EXEMPTIONS, Exemption
from tools.crdlint.model import Crd

ROOT = Path(__file__).parents[2]

CLEAN = yaml.safe_load("""
spec:
  group: example.org
  names:
    {kind: Boat, listKind: BoatList, plural: boats, singular: boat, shortNames: [bt], categories: [fleet]}
  versions:
  - name: v1
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.count, statusReplicasPath: .status.count, labelSelectorPath: .status.selector}
    additionalPrinterColumns:
    - {name: Harbour, type: string, jsonPath: .spec.harbourRef.name, description: Where it is}
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status', description: Whether}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    - {name: Count, type: integer, jsonPath: .spec.count, priority: 1, description: How many}
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          apiVersion: {type: string, description: Version.}
          kind: {type: string, description: Kind.}
          metadata: {type: object}
          spec:
            type: object
            description: What is wanted.
            required: [harbourRef]
            x-kubernetes-validations:
            - {rule: 'self.count > 0', message: at least one boat, fieldPath: .count}
            properties:
              count: {type: integer, format: int32, minimum: 0, maximum: 9, default: 1, description: How many.}
              rest: {type: string, maxLength: 9, description: How long it rests.}
              pauseDuration: {x-kubernetes-int-or-string: true, pattern: '^[0-9]+(ms|s)$', maxLength: 9, minimum: 0,
                default: 5ms, description: How long it waits.}
              paintFor: {type: boolean, description: Paints it.}
              colour: {type: string, enum: [Red, Blue], description: What it looks like.}
              labels: {type: object, maxProperties: 4, description: Labels., additionalProperties: {type: string,
                maxLength: 9}}
              harbourRef:
                type: object
                description: Where it is.
                required: [name]
                properties: {kind: {type: string, maxLength: 9, description: Kind.}, name: {type: string, maxLength: 9,
                  description: Name.}}
              crew:
                type: array
                maxItems: 9
                description: Who is on it.
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string, maxLength: 9, description: Name.}}
          status:
            type: object
            description: What is.
            properties:
              conditions:
                type: array
                maxItems: 9
                description: Conditions.
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [type]
                items:
                  type: object
                  required: [type, status, reason, message, lastTransitionTime]
                  properties:
                    type: {type: string, maxLength: 9, description: Type.}
                    status: {type: string, enum: ['True', 'False'], description: Status.}
                    reason: {type: string, maxLength: 9, description: Reason.}
                    message: {type: string, maxLength: 9, description: Message.}
                    observedGeneration: {type: integer, format: int64, minimum: 0, description: Generation.}
                    lastTransitionTime: {type: string, format: date-time, description: When.}
              observedGeneration: {type: integer, format: int64, minimum: 0, description: Generation.}
              count: {type: integer, format: int32, minimum: 0, description: How many.}
              selector: {type: string, maxLength: 9, description: Selector.}
""")

TEXT = {"type": "string", "maxLength": 9, "description": "Text."}
NUMBER = {"type": "integer", "format": "int32", "minimum": 0, "description": "Number."}
QUANTITY = {
    "x-kubernetes-int-or-string": True,
    "pattern": "^[0-9+]{1,3}(ms)?$",
    "minimum": 0,
    "description": "Quantity.",
}
TREE = {"type": "object", "description": "Tree.", "properties": {"a": TEXT}}

Change = Callable[[dict[str, Any]], Any]


def fields(crd: dict[str, Any], part: str = "spec") -> dict[str, Any]:
    found: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part]["properties"]
    return found


def named(name: str, schema: dict[str, Any], part: str = "spec") -> Change:
    """A field more."""
    return lambda crd: fields(crd, part).update({name: schema})


def changed(name: str, part: str = "spec", **values: Any) -> Change:
    """Another field; None drops a part of it."""

    def change(crd: dict[str, Any]) -> None:
        made = fields(crd, part)[name] | {key.replace("_", "-"): value for key, value in values.items()}
        fields(crd, part)[name] = {key: value for key, value in made.items() if value is not None}

    return change


def version(crd: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = crd["spec"]["versions"][0]
    return found


def root(crd: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = version(crd)["schema"]["openAPIV3Schema"]
    return found


def rule(**values: Any) -> Change:
    return lambda crd: root(crd)["properties"]["spec"].update({"x-kubernetes-validations": [values]})


def columns(*, last: str = "Age", **values: Any) -> Change:
    def change(crd: dict[str, Any]) -> None:
        found = version(crd)["additionalPrinterColumns"]
        found[0] |= values
        found[2]["name"] = last

    return change


def conditions(**values: Any) -> Change:
    return lambda crd: fields(crd, "status")["conditions"].update(
        {key.replace("_", "-"): value for key, value in values.items()}
    )


def reordered(crd: dict[str, Any]) -> None:
    found = fields(crd, "status")
    found["conditions"] = found.pop("conditions")


CASES: list[tuple[str, Change, str]] = [
    ("group_is_our_own", lambda crd: crd["spec"].update(group="boats.x.k8s.io"), "spec.group"),
    ("group_is_our_own", lambda crd: crd["spec"].update(group="boats"), "spec.group"),
    ("kind_and_resource_names", lambda crd: crd["spec"]["names"].update(kind="sailBoat"), "spec.names.kind"),
    ("kind_and_resource_names", lambda crd: crd["spec"]["names"].update(listKind="Boats"), "spec.names.listKind"),
    ("kind_and_resource_names", lambda crd: crd["spec"]["names"].update(singular="Boat"), "spec.names.singular"),
    ("kind_and_resource_names", lambda crd: crd["spec"]["names"].update(plural="boat"), "spec.names.plural"),
    ("short_name_and_category", lambda crd: crd["spec"]["names"].pop("shortNames"), "spec.names.shortNames"),
    ("short_name_and_category", lambda crd: crd["spec"]["names"].update(categories=["All"]), "spec.names.categories"),
    ("frame_of_an_object", lambda crd: root(crd)["properties"].update(data=TEXT), "top"),
    ("frame_of_an_object", lambda crd: root(crd).update(required=["spec", "status"]), "top"),
    ("status_is_a_subresource", lambda crd: version(crd)["subresources"].pop("status"), "subresources"),
    (
        "scale_points_to_numbers",
        lambda crd: version(crd)["subresources"]["scale"].update(specReplicasPath=".spec.rest"),
        "specReplicasPath",
    ),
    (
        "scale_points_to_numbers",
        lambda crd: version(crd)["subresources"]["scale"].pop("labelSelectorPath"),
        "labelSelectorPath",
    ),
    ("columns_show_fields", columns(jsonPath=".spec.harbour"), "columns.Harbour: .spec.harbour is no field"),
    ("columns_show_fields", columns(jsonPath=".spec.count"), "columns.Harbour: is a string"),
    ("columns_show_fields", columns(description=""), "columns.Harbour: has no description"),
    ("columns_show_fields", columns(last="Built"), "is not Age"),
    ("conditions_as_everywhere", reordered, "status.conditions: is not the first"),
    ("conditions_as_everywhere", conditions(x_kubernetes_list_map_keys=["reason"]), "is not a map by type"),
    ("conditions_as_everywhere", conditions(items=TREE), "conditions[].lastTransitionTime"),
    ("status_tells_its_generation", changed("observedGeneration", "status", format="int32"), "observedGeneration"),
    (
        "status_asks_for_nothing",
        lambda crd: root(crd)["properties"]["status"].update(required=["count"]),
        "status.count: is required",
    ),
    ("status_asks_for_nothing", changed("count", "status", default=0), "status.count: has a default"),
    ("status_has_no_phase", named("phase", TEXT, "status"), "status.phase"),
    ("rules_have_messages", rule(rule="true"), "without a message"),
    ("rules_have_messages", rule(rule="true", message="one\ntwo"), "not one sentence"),
    ("rules_have_messages", rule(rule="true", message="yes", fieldPath=".boats"), ".boats"),
    ("lower_camel_case", named("Sail", TEXT), "spec.Sail"),
    ("lower_camel_case", named("main_sail", TEXT), "spec.main_sail"),
    ("no_abbreviations", named("numSails", NUMBER), "spec.numSails: abbreviates num"),
    ("booleans_say_what_they_do", named("isFast", {"type": "boolean", "description": "Fast."}), "spec.isFast"),
    ("booleans_say_what_they_do", named("disableSail", {"type": "boolean", "description": "No."}), "spec.disableSail"),
    ("times_are_called_time", named("builtAt", TEXT), "spec.builtAt"),
    ("times_are_called_time", named("builtTimestamp", TEXT), "spec.builtTimestamp"),
    (
        "times_are_called_time",
        named("built", {"type": "string", "format": "date-time", "description": "When."}),
        "spec.built",
    ),
    ("references_are_called_ref", named("ownerReference", TREE), "spec.ownerReference"),
    ("references_are_called_ref", named("ownerRef", TREE), "spec.ownerRef: is a reference without a name"),
    (
        "references_are_called_ref",
        named("owner", TREE | {"properties": {"kind": TEXT, "name": TEXT}}),
        "spec.owner: is a reference that is not called ...Ref",
    ),
    ("times_have_units", named("restTimeout", NUMBER), "spec.restTimeout"),
    ("times_have_units", named("restDelay", TEXT | {"pattern": "^[0-9]+$"}), "spec.restDelay"),
    ("no_secrets_in_objects", named("adminToken", TEXT), "spec.adminToken"),
    ("enums_are_camel_case", changed("colour", enum=["red"]), "spec.colour: 'red'"),
    ("enums_are_camel_case", changed("colour", enum=["DEEP_RED"]), "spec.colour: 'DEEP_RED'"),
    ("fields_are_described", changed("count", description=None), "spec.count"),
    ("fields_are_described", changed("count", description="how many"), "spec.count"),
    ("fields_are_described", changed("count", description="A" * 301 + "."), "spec.count: is described in 302"),
    ("structural", changed("count", type=None), "spec.count: has no type"),
    ("structural", changed("count", anyOf=[]), "spec.count: has anyOf"),
    ("structural", changed("labels", properties={"a": TEXT}), "spec.labels: is an object and a map"),
    ("no_unknown_fields", lambda crd: crd["spec"].update(preserveUnknownFields=True), "spec.preserveUnknownFields"),
    ("no_unknown_fields", named("any", TREE | {"x-kubernetes-preserve-unknown-fields": True}), "spec.any"),
    ("no_unknown_fields", named("any", {"type": "object", "description": "Any."}), "spec.any"),
    ("no_nulls", changed("rest", nullable=True), "spec.rest"),
    ("no_floats", named("length", {"type": "number", "description": "Metres."}), "spec.length"),
    ("lists_say_how_they_merge", changed("crew", x_kubernetes_list_type=None), "spec.crew: does not say"),
    ("lists_say_how_they_merge", changed("crew", x_kubernetes_list_type="set"), "spec.crew: is a set"),
    ("lists_say_how_they_merge", changed("crew", x_kubernetes_list_map_keys=None), "spec.crew: has no keys"),
    ("lists_say_how_they_merge", changed("crew", x_kubernetes_list_map_keys=["age"]), "spec.crew: its key age"),
    ("lists_are_bounded", changed("crew", maxItems=None), "spec.crew"),
    ("strings_are_bounded", changed("rest", maxLength=None), "spec.rest"),
    ("strings_are_bounded", named("pause", {k: v for k, v in QUANTITY.items() if k != "pattern"}), "spec.pause"),
    ("strings_are_bounded", named("pause", QUANTITY | {"pattern": "^[0-9]+ms$"}), "spec.pause"),
    ("maps_are_bounded", changed("labels", maxProperties=None), "spec.labels"),
    ("integers_are_bounded", changed("count", maximum=None, format=None), "spec.count: has no maximum"),
    ("integers_are_bounded", changed("count", minimum=None), "spec.count: has no minimum"),
    ("integers_are_bounded", changed("count", maximum=2**40), "spec.count: has the format int32"),
    ("integers_are_bounded", changed("pauseDuration", minimum=None), "spec.pauseDuration"),
    ("required_fields_have_no_default", changed("harbourRef", default={"name": "x"}), "spec.harbourRef"),
    ("required_fields_have_no_default", changed("harbourRef", required=["name", "x"]), "spec.harbourRef: requires x"),
    ("defaults_are_valid", changed("count", default=10), "spec.count"),
    ("defaults_are_valid", changed("pauseDuration", default="5 s"), "spec.pauseDuration"),
    ("objects_in_lists_have_a_required_field", changed("crew", items=TREE), "spec.crew[]"),
    ("patterns_are_anchored", changed("rest", pattern="[a-z]+"), "spec.rest"),
    ("patterns_are_anchored", changed("rest", pattern="^(?=a)[a-z]+$"), "spec.rest"),
]


def found(raw: dict[str, Any]) -> list[str]:
    return lint([Crd(raw)], ())


def test_a_clean_crd_has_no_findings() -> None:
    assert found(CLEAN) == []


@pytest.mark.parametrize(("rule_name", "change", "part"), CASES, ids=[f"{case[0]}-{n}" for n, case in enumerate(CASES)])
def test_a_crd_that_breaks_a_rule_is_found(rule_name: str, change: Change, part: str) -> None:
    crd = copy.deepcopy(CLEAN)
    change(crd)
    lines = [line for line in found(crd) if line.endswith(f"({rule_name})")]
    assert any(part in line for line in lines), found(crd)


def test_a_pattern_can_be_the_bound_of_a_string() -> None:
    crd = copy.deepcopy(CLEAN)
    named("pause", QUANTITY)(crd)
    assert found(crd) == []


def test_there_is_a_broken_crd_for_every_rule_and_every_rule_says_what_it_asks_for() -> None:
    assert {rule.__name__ for rule in RULES} == {name for name, _, _ in CASES}
    assert all((rule.__doc__ or "").strip() for rule in RULES)


def test_an_exemption_silences_what_it_is_for_and_nothing_else() -> None:
    crd = copy.deepcopy(CLEAN)
    named("numSails", NUMBER)(crd)
    named("numOars", NUMBER)(crd)
    lines = lint([Crd(crd)], [Exemption("no_abbreviations", "spec.numS*", "sailors say so")])
    assert lines == ["Boat: spec.numOars: abbreviates num (no_abbreviations)"]


def test_an_exemption_that_nothing_needs_is_a_finding() -> None:
    assert lint([Crd(CLEAN)], [Exemption("no_floats", "spec.length", "why not")]) == [
        "exemption of spec.length from no_floats: nothing needs it"
    ]


def test_our_own_crds_have_no_findings_and_every_exemption_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted((ROOT / "crds").glob("*.yaml"))
    assert main([str(file) for file in files]) == 0, capsys.readouterr().err
    assert f"{len(files)} CRDs, {len(RULES)} rules" in capsys.readouterr().out
    assert all(exemption.reason for exemption in EXEMPTIONS)


def test_findings_are_lines_and_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crd = copy.deepcopy(CLEAN)
    named("numSails", NUMBER)(crd)
    file = tmp_path / "boats.yaml"
    file.write_text(yaml.safe_dump(crd))
    assert main([str(file)]) == 1
    assert "Boat: spec.numSails: abbreviates num (no_abbreviations)" in capsys.readouterr().err.splitlines()
