"""Parameters in headers: which are declared, and whether what is said twice is the same. The reference server's own
judgement (the public SDK's) stands beside ours."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import encode_header_value, find_invalid_x_mcp_header, validate_mcp_param_headers

from tests.transport.modern_messages import call, headers_of
from transport import modern
from transport.param_headers import Declared, InvalidDeclaration, declared_in, difference


def mirrored(type: object = "string", header: object = "Region") -> dict[str, Any]:
    return {"type": type, "x-mcp-header": header}


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def read(of: object) -> tuple[Declared, ...]:
    return declared_in(json.dumps(of).encode())


def request_with(arguments: Any, **headers: str) -> modern.ModernRequest:
    message = call("tool")
    message["params"]["arguments"] = arguments
    route = modern.classify(headers_of(message, **headers), json.dumps(message).encode())
    assert isinstance(route, modern.ModernRequest), route
    return route


# ---- what is declared ----


def test_parameters_at_any_depth_are_declared_by_their_names() -> None:
    nested = schema(region=mirrored(), options=schema(limit=mirrored("integer", "Limit")), plain={"type": "string"})
    assert set(read(nested)) == {
        Declared("mcp-param-region", ("region",)),
        Declared("mcp-param-limit", ("options", "limit")),
    }


def test_schema_without_annotations_declares_nothing() -> None:
    assert read(schema(region={"type": "string", "default": "x"})) == ()
    assert declared_in(b"no JSON, and nothing in it") == ()


def test_data_that_looks_like_an_annotation_is_none() -> None:
    data = {"type": "object", "default": mirrored(), "examples": [mirrored()], "enum": [mirrored()]}
    assert read(schema(region=data)) == ()


def test_parameter_of_that_name_is_no_annotation() -> None:
    assert read(schema(**{"x-mcp-header": mirrored()})) == (Declared("mcp-param-region", ("x-mcp-header",)),)


BROKEN: list[Any] = [
    schema(region=mirrored("number")),
    schema(region=mirrored(["string", "null"])),
    schema(region={"x-mcp-header": "Region"}),
    schema(region=mirrored(header="")),
    schema(region=mirrored(header="a b")),
    schema(region=mirrored(header="ü")),
    schema(region=mirrored(header=5)),
    schema(one=mirrored(), two=mirrored(header="REGION")),
    schema(list={"type": "array", "items": mirrored()}),
    schema(list={"type": "array", "prefixItems": [mirrored()]}),
    schema(either={"anyOf": [{"type": "null"}, mirrored()]}),
    {"$defs": {"region": mirrored()}},
    {"allOf": [schema(region=mirrored())]},
    {"if": schema(region=mirrored())},
    {"type": "string", "x-mcp-header": "Region"},
    {"patternProperties": {"^r": mirrored()}},
]


@pytest.mark.parametrize("broken", BROKEN)
def test_schema_that_breaks_the_rules_is_refused_as_the_reference_does(broken: Any) -> None:
    assert find_invalid_x_mcp_header(broken) is not None
    with pytest.raises(InvalidDeclaration):
        read(broken)


def test_schema_that_cannot_be_read_is_refused() -> None:
    for raw in (b'{"x-mcp-header"', b"[" * 100_000 + b'"x-mcp-header"'):
        with pytest.raises(InvalidDeclaration, match="cannot be read"):
            declared_in(raw)


# ---- whether both say the same ----

ANY = schema(a=mirrored(header="A"))


def problem_of(type: str, arguments: Any, **headers: str) -> str:
    of = schema(a=mirrored(type, "A"))
    request = request_with(arguments, **headers)
    ours = difference(read(of), request)
    theirs = validate_mcp_param_headers(of, arguments or {}, dict(request.headers))
    assert bool(ours) is (theirs is not None), (ours, theirs)
    return ours


@pytest.mark.parametrize(
    ("type", "value", "header"),
    [
        ("string", "us-west1", "us-west1"),
        ("string", "", ""),
        ("string", "Zürich", "=?base64?WsO8cmljaA==?="),
        ("string", " padded ", "=?base64?IHBhZGRlZCA=?="),
        ("string", "line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
        ("string", "=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ("integer", 42, "42"),
        ("integer", 42, "42.0"),
        ("integer", -7, "-7"),
        ("boolean", True, "true"),
        ("boolean", False, "false"),
    ],
)
def test_header_that_says_the_same_passes(type: str, value: object, header: str) -> None:
    assert problem_of(type, {"a": value}, mcp_param_a=header) == ""


@pytest.mark.parametrize(
    ("type", "value", "header", "problem"),
    [
        ("string", "us-west1", "us-east1", "something else"),
        ("string", "us-west1", "US-WEST1", "something else"),
        ("string", "42", "42.0", "something else"),
        ("string", "x", "=?base64?eA=?=", "not correctly base64"),
        ("string", "x", "=?base64?eB==?=", "not correctly base64"),
        ("integer", 42, "43", "something else"),
        ("integer", 42, "forty-two", "something else"),
        ("integer", 10**30, f"{10**30 + 1}", "something else"),
        ("boolean", True, "True", "something else"),
        ("boolean", True, "1", "something else"),
        ("string", {"no": "text"}, "x", "is not"),
        ("string", None, "x", "is not"),
    ],
)
def test_header_that_says_something_else_is_named(type: str, value: object, header: str, problem: str) -> None:
    told = problem_of(type, {"a": value}, mcp_param_a=header)
    assert problem in told
    assert "mcp-param-a" in told


@pytest.mark.parametrize("arguments", [{}, {"a": None}, {"b": 1}, None])
def test_absent_parameter_has_no_header(arguments: Any) -> None:
    assert problem_of("string", arguments) == ""
    assert "is there" in problem_of("string", arguments, mcp_param_a="x")


@pytest.mark.parametrize("value", ["x", "", 0, False])
def test_parameter_without_its_header_is_refused(value: object) -> None:
    types: dict[type, str] = {str: "string", int: "integer", bool: "boolean"}
    assert "is missing" in problem_of(types[type(value)], {"a": value})


def test_headers_that_nothing_declares_are_left_alone() -> None:
    assert problem_of("string", {"a": "x"}, mcp_param_a="x", mcp_param_other="whatever") == ""


def test_exponents_beyond_all_bounds_are_compared_at_once() -> None:
    request = request_with({"a": 1}, mcp_param_a="1e999999999999999999999")
    assert "something else" in difference(read(schema(a=mirrored("integer", "A"))), request)


@given(st.one_of(st.text(max_size=20), st.integers(-(2**53), 2**53), st.booleans()))
def test_what_the_reference_client_sends_agrees(value: str | int | bool) -> None:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return
    request = request_with({"a": value}, mcp_param_a=encode_header_value(text))
    assert difference(read(ANY), request) == ""
