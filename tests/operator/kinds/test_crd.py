"""The generated files: CRDs, their copies in the chart, the reference."""

from __future__ import annotations

from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from ghostfleet_operator.kinds import crd
from ghostfleet_operator.kinds.crd import KINDS, Kind, generated, manifest
from ghostfleet_operator.kinds.reference import effects
from ghostfleet_operator.kinds.schema import brief, silent
from ghostfleet_simulator.config import LIVE_FIELDS, FixedConfig

ROOT = Path(__file__).parents[3]


def test_files_in_the_tree_are_those_of_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main(["--check", "--root", str(ROOT)]) == 0, capsys.readouterr().err


def test_a_file_that_differs_is_named_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main(["--root", str(tmp_path)]) == 0
    reference = tmp_path / "docs" / "crds.md"
    reference.write_text("something else")
    capsys.readouterr()
    assert crd.main(["--check", "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "docs/crds.md: differs from the models; run `make crds`\n"
    assert reference.read_text() == "something else"
    assert crd.main(["--root", str(tmp_path)]) == 0
    assert crd.main(["--check", "--root", str(tmp_path)]) == 0


def test_a_crd_that_is_too_large_is_an_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crd, "MOST_BYTES", 50)
    assert crd.main(["--check", "--root", str(ROOT)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "the CRD of SimulatedModelServer has" in line
    assert "more than 50" in line


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_short_way_of_writing_loses_nothing(kind: Kind) -> None:
    assert yaml.safe_load(manifest(kind)) == crd.crd(kind)


def test_only_whole_clauses_of_a_long_description_are_left_out() -> None:
    text = "Seconds to wait; `0` is none, e.g. at a start. Else one."
    schema = {"description": text, "properties": {"a": {"items": {"description": text}}}}
    assert brief(schema, 100) == schema
    found = brief(schema, 50)
    assert found["description"] == "Seconds to wait; `0` is none, e.g. at a start."
    assert found["properties"]["a"]["items"]["description"] == found["description"]
    assert brief(schema, 5)["description"] == "Seconds to wait."


def test_a_profile_inside_a_server_is_checked_as_one_of_its_own_which_has_the_words() -> None:
    server, profile = (
        crd.crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] for kind in KINDS[:2]
    )
    inside = server["properties"]["profile"]
    assert "kubectl explain latencyprofile.spec" in inside["description"]
    assert inside["properties"] == silent(profile)["properties"]
    assert inside.get("x-kubernetes-validations") == profile.get("x-kubernetes-validations")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_crd_is_valid_and_small(kind: Kind) -> None:
    text = manifest(kind)
    tree = yaml.safe_load(text)
    kubernetes_validate.validate(tree, "1.34", strict=True)
    assert len(text.encode()) < 60_000
    names = tree["spec"]["names"]
    assert names["categories"] == ["ghostfleet"]
    assert tree["metadata"]["name"] == f"{names['plural']}.{tree['spec']['group']}"


def test_a_server_scales_and_shows_what_a_fleet_owner_scans() -> None:
    version = crd.crd(KINDS[0])["spec"]["versions"][0]
    assert version["subresources"]["scale"] == {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    columns = [(column["name"], column.get("priority", 0)) for column in version["additionalPrinterColumns"]]
    narrow = ["Ready", "Reason", "Desired", "Replicas", "Profile", "Synced", "Model", "Age"]
    assert [name for name, wide in columns if not wide] == narrow
    assert [name for name, wide in columns if wide] == ["Hash", "Revision", "URL"]


def test_every_column_shows_a_field_that_exists() -> None:
    for kind in KINDS:
        tree = crd.crd(kind)["spec"]["versions"][0]
        for column in tree["additionalPrinterColumns"]:
            schema = tree["schema"]["openAPIV3Schema"]
            for part in column["jsonPath"].split("[?")[0].strip(".").split("."):
                if part == "metadata":
                    break
                schema = schema["properties"][part]


def test_the_reference_tells_live_fields_from_those_that_need_a_restart() -> None:
    found = effects()
    assert {name for name, effect in found.items() if effect == "live"} == {*LIVE_FIELDS, "profileRef"}
    fixed = {info.alias or name for name, info in FixedConfig.model_fields.items()}
    assert {name for name, effect in found.items() if effect == "restart"} == {*fixed, "pod", "role"}
    page = generated()["docs/crds.md"]
    assert "| `model.maxModelLen` | integer, 16 to 10485760 | `32768` | restart |" in page
    assert "| `profile.simple.timeToFirstToken` | quantity | `0ms` | live |" in page
