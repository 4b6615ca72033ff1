"""Holds exchanges against Comfy's document of its API v2: reads both from standard input, prints what does not fit."""

import base64
import json
import re
import sys
from urllib.parse import urlsplit

import yaml
from openapi_schema_validator import OAS30Validator, oas30_format_checker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

ENDS = {"succeeded", "canceled", "failed", "expired"}
ORDER = {"queued": 0, "running": 1, "canceling": 2}
HASH = re.compile(r"blake3:[0-9a-f]{64}")
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# What clients of 0.5 use beyond the document.
LIST = {
    "type": "object",
    "required": ["jobs"],
    "properties": {
        "jobs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "status", "create_time", "update_time", "metadata"],
                "properties": {
                    "id": {"type": "string", "format": "uuid"},
                    "status": {"$ref": "urn:contract#/components/schemas/JobStatus"},
                    "create_time": {"type": "string", "format": "date-time"},
                    "update_time": {"type": "string", "format": "date-time"},
                    "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                    "deployment_id": {"type": "string", "nullable": True},
                },
            },
        },
        "next_cursor": {"type": "string", "nullable": True},
    },
}


@oas30_format_checker.checks("uri")
def is_uri(value):
    parts = urlsplit(value) if isinstance(value, str) else None
    return parts is None or (parts.scheme in ("http", "https") and bool(parts.netloc))


@oas30_format_checker.checks("uri-reference")
def is_reference(value):
    return not isinstance(value, str) or is_uri(value) or (value.startswith("/") and not value.startswith("//"))


def with_nulls(schema):
    """What may be null by `nullable` beside `allOf`, which has no type of its own to say so."""
    if isinstance(schema, list):
        return [with_nulls(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: with_nulls(value) for name, value in schema.items()}
    if schema.get("nullable") is True and "allOf" in schema and "type" not in schema:
        return {"anyOf": [{"allOf": schema["allOf"]}, {"enum": [None]}]}
    return schema


plan = json.load(sys.stdin)
document = with_nulls(yaml.safe_load(plan["document"]))
registry = Registry().with_resource("urn:contract", Resource(contents=document, specification=DRAFT4))
ENVELOPE = {"$ref": "urn:contract#/components/schemas/ErrorEnvelope"}
wrong = []


def faults(schema, value):
    validator = OAS30Validator(schema, registry=registry, format_checker=oas30_format_checker)
    found = []
    for error in validator.iter_errors(value):
        # Of what may be null, what is wrong with what is not.
        parts = [part for part in error.context or [] if part.validator != "enum"] or [error]
        found.extend(f"{part.json_path}: {part.message}" for part in parts)
    return found


def matching(template, path):
    parts, given = template.split("/"), path.split("/")
    return len(parts) == len(given) and all(
        part == one or (part.startswith("{") and one) for part, one in zip(parts, given, strict=True)
    )


def operation(method, path):
    """The document's path and operation; exact ones before those with parameters."""
    for template in sorted(document["paths"], key=lambda template: template.count("{")):
        if matching(template, path):
            return template, document["paths"][template].get(method.lower())
    return None, None


def resolved(value):
    while "$ref" in value:
        place = document
        for part in value["$ref"].split("#/")[1].split("/"):
            place = place[part]
        value = place
    return value


def frames(text):
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            fields = dict(line.split(": ", 1) for line in lines)
            yield fields.get("event"), fields.get("data")


def stream(exchange, catalog):
    """A stream of events, which may have been left before its end."""
    text = exchange["text"].replace("\r\n", "\n")
    whole = text[: text.rfind("\n\n") + 2]
    progress, over = -1, False
    told = list(frames(whole))
    # Of a job that is over, its end is the last frame and the only word of its state.
    if told and told[0][0] != "status" and [name for name, _ in told].count("status") > 1:
        yield f"the first frame is {told[0][0]}"
    for number, (name, data) in enumerate(told):
        if over:
            yield f"frame {number} ({name}) after the end"
        if name not in catalog or catalog[name].get("x-sse-not-yet-emitted"):
            yield f"frame {number}: {name} is no event"
            continue
        value = json.loads(data)
        yield from (
            f"frame {number} ({name}) {fault}"
            for fault in faults({"$ref": "urn:contract" + catalog[name]["schema"]}, value)
        )
        if name == "progress":
            if value["value"] < progress:
                yield f"frame {number}: progress falls from {progress} to {value['value']}"
            if value["nodes_done"] > value["nodes_total"]:
                yield f"frame {number}: more nodes done than there are: {data}"
            progress = value["value"]
        yield from (f"frame {number} ({name}) {fault}" for fault in marks(value))
        if name == "preview" and not base64.b64decode(value["data_base64"]).startswith(b"\xff\xd8"):
            yield f"frame {number}: no JPEG"
        over = name == "status" and value["status"] in ENDS
    if exchange["is_whole"] and not over:
        yield "it ended before the job did"


def marks(value):
    """Whether each hash and each id is one, wherever it stands."""
    if isinstance(value, dict):
        for name, form in (("hash", HASH), ("id", ID)):
            if isinstance(value.get(name), str) and not form.fullmatch(value[name]):
                yield f"{name}: {value[name]}"
        for item in value.values():
            yield from marks(item)
    if isinstance(value, list):
        for item in value:
            yield from marks(item)


def looked_at(exchange):
    method, status, headers = exchange["method"], exchange["status"], exchange["headers"]
    path = urlsplit(exchange["target"]).path
    template, described = operation(method, path)
    is_list = (method, path) == ("GET", "/api/v2/jobs")
    if described is None and not is_list:
        yield "the document has no such operation"
        return
    kind = headers.get("content-type", "").split(";")[0]
    declared = described["responses"].get(str(status)) if described else None
    if status == 429 and not headers.get("retry-after", "").isdigit():
        yield "no whole seconds in Retry-After"
    if method == "HEAD" or status == 204:
        if exchange["length"]:
            yield "a body"
        return
    if is_list and status == 200:
        schema = LIST
    elif status < 400 and declared is None:
        yield f"{status} is not declared"
        return
    elif declared is None or status == 416:
        schema = ENVELOPE
    else:
        content = resolved(declared).get("content", {})
        if "text/event-stream" in content:
            if kind != "text/event-stream":
                yield f"{kind} is no stream"
            else:
                yield from stream(exchange, described["x-sse-events"])
            return
        if "application/octet-stream" in content:
            if headers.get("accept-ranges") != "bytes":
                yield "no Accept-Ranges"
            if status == 206 and not re.fullmatch(r"bytes \d+-\d+/\d+", headers.get("content-range", "")):
                yield f"Content-Range: {headers.get('content-range')}"
            if exchange["is_whole"] and headers.get("content-length") != str(exchange["length"]):
                yield f"Content-Length: {headers.get('content-length')} of {exchange['length']}"
            return
        # The names of references stay those of the document.
        schema = json.loads(json.dumps(content["application/json"]["schema"]).replace('"#/', '"urn:contract#/'))
    if kind != "application/json":
        yield f"{kind or 'nothing'} is no JSON"
        return
    value = json.loads(exchange["text"])
    unfit = faults(schema, value)
    is_graph = path.endswith("/workflow")
    yield from unfit
    if not is_graph:
        yield from marks(value)
    if status >= 400 and not unfit and len(value["error"]["message"]) < 10:
        yield "it says nothing"


jobs = {}
for exchange in plan["exchanges"]:
    name = f"{exchange['method']} {exchange['target'][:120]} {exchange['status']}"
    wrong.extend(f"{name}: {fault}" for fault in looked_at(exchange))
    if exchange["text"] and exchange["status"] < 300 and exchange["text"].startswith('{"'):
        value = json.loads(exchange["text"])
        if "urls" in value:
            jobs.setdefault(value["id"], []).append((exchange["asked_at"], exchange["answered_at"], value))

# What was answered after something else goes on from there.
for id, polls in jobs.items():
    for name in ("created_at", "expires_at"):
        if len({value[name] for _, _, value in polls}) > 1:
            wrong.append(f"job {id}: {name} changes: {sorted({value[name] for _, _, value in polls})}")
    for _, answered, earlier in polls:
        for asked, _, later in polls:
            if asked > answered:
                before, after = earlier["status"], later["status"]
                falls = ORDER.get(after, 3) < ORDER.get(before, 3)
                if falls or (before in ENDS and before != after):
                    wrong.append(f"job {id}: {after} after {before}")
                if len(earlier["outputs"]) > len(later["outputs"]):
                    wrong.append(f"job {id}: outputs are gone again")
print(json.dumps(sorted(set(wrong))))
