"""The OpenAPI 3.1 document of the administration, made from the table of routes that dispatches. Pure.

Types and bounds come from the structs that requests are checked by and answers made of (`shapes.py`), so what is said
here is what is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from transport.admin.problem import CONTENT_TYPE, Problem
from transport.admin.route import SEGMENT_CHARACTERS_MAX, SEGMENT_PATTERN, Route
from transport.admin.shapes import Asked

_SCHEMAS = "#/components/schemas/{name}"

# What any route may answer.
_COMMON: Mapping[HTTPStatus, str] = {
    HTTPStatus.BAD_REQUEST: "a parameter is malformed, unknown, or out of its range; `field` names it",
    HTTPStatus.METHOD_NOT_ALLOWED: "`Allow` says what can be done here",
    HTTPStatus.REQUEST_URI_TOO_LONG: "the request target is longer than allowed",
    HTTPStatus.SERVICE_UNAVAILABLE: "the gateway or its store cannot do this now, and nothing was done; try again",
}
_OF_SESSIONS: Mapping[HTTPStatus, str] = {HTTPStatus.NOT_FOUND: "there is no session of this id or reference"}
_OF_BODIES: Mapping[HTTPStatus, str] = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the body is larger than allowed",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "the body is not application/json",
    HTTPStatus.UNPROCESSABLE_ENTITY: "the body is JSON, but not what is wanted; `field` names what is wrong",
}

# These the server gives, too, to requests that come no further than its door, in the words it has for all of them.
_BY_THE_DOOR = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_URI_TOO_LONG)


def document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """Describe the routes.

    Args:
      version: of the gateway.
    """
    told: list[Any] = [Problem, *(route.tells for route in routes if route.tells is not None)]
    told += [route.body for route in routes if route.body is not None]
    _, schemas = msgspec.json.schema_components([kind for kind in told if kind is not dict], ref_template=_SCHEMAS)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Outlast administration",
            "version": version,
            "description": "Sessions of a gateway, for its operators. Times are Unix time in seconds.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"operators": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"operators": []}],
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.about,
        "parameters": [*_path_parameters(route), *_query_parameters(route.query)],
        "responses": _responses(route),
    }
    if route.body is not None:
        schema = {"$ref": _SCHEMAS.format(name=route.body.__name__)}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    if not route.has_session:
        return []
    schema = {"type": "string", "minLength": 1, "maxLength": SEGMENT_CHARACTERS_MAX, "pattern": SEGMENT_PATTERN}
    about = "a session's reference, or its id (which is a secret: a path is written to logs)"
    return [{"name": "session", "in": "path", "required": True, "description": about, "schema": schema}]


def _query_parameters(kind: type[Asked]) -> list[dict[str, Any]]:
    (_,), schemas = msgspec.json.schema_components([kind])
    properties: dict[str, Any] = schemas[kind.__name__]["properties"]
    return [_query_parameter(name, schema) for name, schema in properties.items()]


def _query_parameter(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in schema.items() if key != "description"}
    described: dict[str, Any] = {"name": name, "in": "query", "required": False, "schema": plain}
    if "description" in schema:
        described["description"] = schema["description"]
    return described


def _responses(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    if route.tells is None:
        responses["204"] = {"description": "done"}
    else:
        schema = {"type": "object"} if route.tells is dict else {"$ref": _SCHEMAS.format(name=route.tells.__name__)}
        responses["200"] = {"description": "done", "content": {"application/json": {"schema": schema}}}
    # Told before any route is found, in the gateway's own words.
    for status, about in (("401", "no operators' token"), ("403", "operations are for the gateway's machine only")):
        responses[status] = {"description": about, "content": {"application/json": {"schema": {"type": "object"}}}}
    refusals = {**_COMMON, **(_OF_SESSIONS if route.has_session else {}), **(_OF_BODIES if route.body else {})}
    for refusal, about in sorted({**refusals, **route.refusals}.items()):
        content: dict[str, Any] = {CONTENT_TYPE: {"schema": {"$ref": _SCHEMAS.format(name="Problem")}}}
        if refusal in _BY_THE_DOOR:
            content["application/json"] = {"schema": {"type": "object"}}
        responses[str(refusal.value)] = {"description": about, "content": content}
    return responses
