"""What a client may send here as an OpenAPI 3.1 document, made from what is routed and from what is read of a body.

It says what the gateway itself asks for and answers. The fields of a body that it does not look at are the worker's
(vLLM's own documents): they are neither listed nor refused. The control API below /saga is for saga's own tools.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from aiohttp import web

from saga_head.gateway.port import Fields
from saga_head.gateway.refusals import APIS

VERSION: Final = "3.1.0"
BODY: Final = "StepRequest"
SUMMARIES: Final = {
    "/v1/chat/completions": "Chat completion (OpenAI)",
    "/v1/completions": "Text completion (OpenAI)",
    "/v1/embeddings": "Embeddings (OpenAI)",
    "/v1/messages": "Message (Anthropic)",
    "/v1/messages/count_tokens": "Count the tokens of a message (Anthropic)",
    "/v1/responses": "Response, stored unless `store` is false (OpenAI)",
}
_PARAMETER: Final = re.compile(r"\{(\w+)(?::[^}]*)?\}")

Json = dict[str, Any]


def document(version: str, routes: Iterable[web.RouteDef]) -> Json:
    """The document; `routes`: those of the clients beside the hot path, of which the ones below a token are left out."""
    paths: Json = {api: {"post": _step(api)} for api in APIS}
    for route in routes:
        if not route.path.startswith("/s/"):
            path = _PARAMETER.sub(r"{\1}", route.path)
            paths.setdefault(path, {})[route.method.lower()] = _fetch(route)
    return {
        "openapi": VERSION,
        "info": {
            "title": "saga",
            "version": version,
            "description": "Workflow-aware gateway to vLLM workers. Other body fields pass to the worker as they are.",
        },
        "servers": [
            {"url": "/", "description": "with a key"},
            {
                "url": "/s/{token}",
                "description": "of one workflow, without a key",
                "variables": {"token": {"default": "token"}},
            },
        ],
        "security": [{"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": _schemas(),
        },
    }


def _schemas() -> Json:
    read: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for item in msgspec.structs.fields(Fields):  # raw JSON is anything, and has no default that JSON can say
        raw = item.type is msgspec.Raw
        kind, default = (Any, None) if raw else (item.type, item.default)
        read.append((item.name, kind) if item.required else (item.name, kind, default))
    found: Json = msgspec.json.schema(msgspec.defstruct(BODY, read, kw_only=True))["$defs"][BODY]
    found["description"] = "What is read here of a body; the rest is the worker's."
    found["properties"]["model"]["minLength"] = 1
    text: Json = {"type": "string"}
    openai: Json = {
        "type": "object",
        "required": ["message", "type"],
        "properties": {"message": text, "type": text},
    }
    return {
        BODY: found,
        "OpenAIError": {"type": "object", "required": ["error"], "properties": {"error": openai}},
        "AnthropicError": {
            "type": "object",
            "required": ["type", "error"],
            "properties": {"type": {"const": "error"}, "error": openai},
        },
    }


def _step(api: str) -> Json:
    body = {"application/json": {"schema": {"$ref": f"#/components/schemas/{BODY}"}}}
    error = "AnthropicError" if api.startswith("/v1/messages") else "OpenAIError"
    answer: Json = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}}
    return {
        "summary": SUMMARIES[api],
        "operationId": "post" + re.sub(r"\W+", "_", api.removeprefix("/v1")),
        "requestBody": {"required": True, "content": body},
        "responses": {"200": {"description": "The worker's answer", "content": answer}, **_errors(error)},
    }


def _fetch(route: web.RouteDef) -> Json:
    names = _PARAMETER.findall(route.path)
    v1 = route.path.startswith("/v1")
    answers = {"200": {"description": "Done" if route.method == "POST" else "Found"}}
    made: Json = {
        "summary": (inspect.getdoc(route.handler) or "").partition("\n")[0],
        "operationId": f"{route.method.lower()}{re.sub(r'[^a-z]+', '_', route.path.removeprefix('/v1'))}",
        "responses": answers | (_errors("OpenAIError") if v1 or route.method == "POST" else {}),
    }
    if route.method == "POST":
        text = {"type": "string"}
        schema = {"type": "object", "properties": {"session_id": text, "program_id": text}}
        made["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    if names:
        made["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    if not v1 and route.method == "GET":
        made["security"] = []
    return made


def _errors(kind: str) -> Json:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind}"}}}
    return {
        "4XX": {
            "description": "The request cannot be served; the message says what is valid",
            "content": content,
        },
        "5XX": {"description": "The cluster cannot serve it now; retry-after says when", "content": content},
    }
