"""Decisions as JUnit XML, which CI services show as tests."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from mergesafe.safety.gate.api import GateResult


def junit_xml(result: GateResult) -> str:
    """One test case for each requirement, a failure where it is not met; properties that say what
    the decisions rest on.
    """
    failures = str(sum(not each.met for each in result.decisions))
    count = str(len(result.decisions))
    suites = ElementTree.Element("testsuites", tests=count, failures=failures)
    suite = ElementTree.SubElement(
        suites, "testsuite", name="mergesafe gate", tests=count, failures=failures, errors="0",
        skipped="0",
    )  # fmt: skip
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in result.evidence.properties():
        ElementTree.SubElement(properties, "property", name=_xml(name), value=_xml(value))
    for each in result.decisions:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_xml(result.model), name=_xml(each.requirement.text)
        )
        if each.met:
            ElementTree.SubElement(case, "system-out").text = _xml(each.reason)
        else:
            failure = ElementTree.SubElement(
                case, "failure", type="RequirementError", message=_xml(each.reason)
            )
            failure.text = _xml(each.reason)
    ElementTree.indent(suites)
    body = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _xml(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return "".join(c if c.isprintable() else "?" for c in text)
