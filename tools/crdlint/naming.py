"""Rules about what fields are called and how they are described."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tools.crdlint.model import Crd, Finding

_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_ABBREVIATIONS: Final = re.compile(
    r"addr|algo|attn|attr|auth|avg|buf|calc|cfg|cmd|cnt|conf|config|ctx|cv|del|desc|dev|dir|dst|dtype|elem|err|ext|"
    r"freq|func|gemm|grp|ident|idx|img|impl|inst|isl|len|loc|mem|mgr|msg|num|obj|opt|opts|param|params|pct|pkg|pos|"
    r"prev|proc|ptr|pwd|qty|rec|reg|req|reqs|res|resp|rsrc|sec|seq|seqs|srv|std|src|stat|svc|temp|tmp|usr|util|val|"
    r"var|ver"
)
"""Short forms that people do not write alike; `ref`, `spec` and `sync` are words of the conventions by now."""

_TIMES: Final = re.compile(r"(duration|timeout|delay|period|interval|latency|overhead|retryAfter)$", re.IGNORECASE)
_UNIT: Final = re.compile(r"(Seconds|Millis|Us|Ms|Ns|Bytes|Tokens|Percent|GBps)$")
_SECRET: Final = re.compile(
    r"(password|passwd|secret|credential|(api|private)Key|(admin|bearer|auth)Token)s?$", re.IGNORECASE
)


def lower_camel_case(crd: Crd) -> Iterator[Finding]:
    """Fields are lowerCamelCase, without hyphens, underscores or a capital at the beginning."""
    for field in crd.fields:
        if field.name and not re.fullmatch(r"[a-z][a-zA-Z0-9]*", field.name):
            yield Finding(field.path, "is not lowerCamelCase")


def no_abbreviations(crd: Crd) -> Iterator[Finding]:
    """Words are written out, but for acronyms that everybody knows."""
    for field in crd.fields:
        short = [word for word in _WORD.findall(field.name) if _ABBREVIATIONS.fullmatch(word.lower())]
        if short:
            yield Finding(field.path, f"abbreviates {', '.join(short)}")


def booleans_say_what_they_do(crd: Crd) -> Iterator[Finding]:
    """A boolean has no `is`, `has` or `should` before it and is not a negation, or people negate twice."""
    for field in crd.fields:
        if field.type == "boolean" and re.match(r"(is|has|should|no|not|non|disable|dont|skip)[A-Z]", field.name):
            yield Finding(field.path, "has a prefix that says nothing, or is a negation")


def times_are_called_time(crd: Crd) -> Iterator[Finding]:
    """A moment is `...Time` of format date-time; no `...Timestamp`, no `...At`."""
    for field in crd.fields:
        if re.search(r"(Timestamp|[a-z]At)$", field.name):
            yield Finding(field.path, "is to be called ...Time")
        if field.schema.get("format") == "date-time" and not re.search(r"([tT]ime|since)$", field.name):
            yield Finding(field.path, "is a moment that is not called ...Time")


def references_are_called_ref(crd: Crd) -> Iterator[Finding]:
    """A reference to another object is an object `...Ref` with at least a `name`."""
    for field in crd.fields:
        if re.search(r"Reference$", field.name):
            yield Finding(field.path, "is to be called ...Ref")
        inner = field.schema.get("properties", {})
        if field.name.endswith("Ref") and "name" not in inner:
            yield Finding(field.path, "is a reference without a name")
        if not field.in_status and {"kind", "name"} == inner.keys() and not field.name.endswith("Ref"):
            yield Finding(field.path, "is a reference that is not called ...Ref")


def times_have_units(crd: Crd) -> Iterator[Finding]:
    """A span of time is a string with a unit, or an integer with the unit in its name."""
    for field in crd.fields:
        if not _TIMES.search(field.name):
            continue
        bare = field.type == "integer" and not _UNIT.search(field.name)
        unitless = not re.search(field.schema.get("pattern", ""), "1ms")
        if bare or field.type == "number" or unitless:
            yield Finding(field.path, "is a span of time without a unit")


def no_secrets_in_objects(crd: Crd) -> Iterator[Finding]:
    """A secret is referred to; who may read the object may not read it."""
    for field in crd.fields:
        if field.type in ("string", "int-or-string") and _SECRET.search(field.name):
            yield Finding(field.path, "looks like a secret")


def enums_are_camel_case(crd: Crd) -> Iterator[Finding]:
    """Values of an enumeration are CamelCase; acronyms stay in capitals."""
    for field in crd.fields:
        for value in field.schema.get("enum", ()):
            if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", str(value)):
                yield Finding(field.path, f"{value!r} is not CamelCase")


def fields_are_described(crd: Crd) -> Iterator[Finding]:
    """Every field has a description: whole sentences, short enough for `kubectl explain`."""
    for field in crd.fields:
        if not field.name or field.path == "metadata":
            continue
        text = field.schema.get("description", "")
        if not re.fullmatch(r"[A-Z0-9`].*[.]", text, re.DOTALL):
            yield Finding(field.path, f"is not described in a sentence: {text!r:.60}")
        elif len(text) > 300:
            yield Finding(field.path, f"is described in {len(text)} characters; 300 are enough")


RULES: Final = (
    lower_camel_case,
    no_abbreviations,
    booleans_say_what_they_do,
    times_are_called_time,
    references_are_called_ref,
    times_have_units,
    no_secrets_in_objects,
    enums_are_camel_case,
    fields_are_described,
)
