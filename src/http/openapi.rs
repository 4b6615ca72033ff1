//! The `OpenAPI` 3.1 document, made from the table of routes.

use serde_json::{Map, Value, json};

use super::auth;
use super::errors::Shape;
use super::route::without_star;
use super::table::{Served, served};
use crate::dialect::comfy_v2::assets;
use crate::dialect::schema::{self, Operation, Schema};
use crate::dialect::{comfy_v2, comfyui, edit_plus, gradio, kie, openai, runpod};

/// The version of `OpenAPI`.
const OPENAPI: &str = "3.1.0";
/// The name of the security scheme.
const KEY: &str = "key";
/// That of Gradio's header.
const KEY_OF_GRADIO: &str = "gradio_key";
/// That of the key in an address.
const KEY_IN_ADDRESS: &str = "key_in_address";

/// What every reader should know first.
const ABOUT: &str = "A worker around ComfyUI for Qwen-Image and any other workflow, behind the APIs that applications already speak. Where a field may be left out, `null` leaves it out too; a field that is not known is told in the warnings of the result, or refused where it would change the picture.";

/// The APIs, in their order: what each is called, and what it is.
const TAGS: &[(Shape, &str, &str)] = &[
    (
        Shape::Runpod,
        "RunPod",
        "Jobs as RunPod's serverless endpoints take them, at the root and below `/v2/{endpoint_id}`; the health of the worker, and files.",
    ),
    (Shape::OpenAi, "OpenAI", "OpenAI's Images API."),
    (Shape::Kie, "KIE", "KIE's tasks for Qwen images."),
    (
        Shape::EditPlus,
        "Edit Plus",
        "The Edit Plus API. It is served at the root of a port of its own too, EDIT_PORT.",
    ),
    (
        Shape::Comfyui,
        "ComfyUI",
        "ComfyUI's own API, at the root and below `/api`. Prompts are jobs like all others; lists tell of those that came by this API.",
    ),
    (
        Shape::ComfyV2,
        "Comfy API v2",
        "Comfy API v2, as its SDKs speak it to a ComfyUI of one's own: jobs, and assets that their graphs name. It is served on EDIT_PORT too.",
    ),
    (
        Shape::Gradio,
        "Gradio",
        "A Gradio Space with the function `/infer`, as Gradio's clients ask for it.",
    ),
];

/// The document of a worker whose health check is at `health_path` beside [`PING`](super::PING); `with_keys`: requests must
/// bring a key.
pub fn document(health_path: &str, with_keys: bool) -> Value {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for served in served(health_path) {
        let methods = served.route.methods.iter().map(|method| {
            let operation = (served.route.describe)();
            let described = describe(&served, method, operation, health_path, with_keys);
            (method.to_ascii_lowercase(), described)
        });
        let mut item: Map<String, Value> = methods.collect();
        let path = without_star(&served.path);
        let parameters = path_parameters(&path);
        if !parameters.is_empty() {
            item.insert("parameters".to_owned(), parameters.into());
        }
        let mut item = Value::Object(item);
        schema::hoist(&mut item, &format!("{:?}", Shape::of(&path)), &mut schemas);
        match (paths.get_mut(&path), item) {
            // Another route has another method of it.
            (Some(Value::Object(so_far)), Value::Object(item)) => so_far.extend(item),
            (_, item) => drop(paths.insert(path, item)),
        }
    }
    let mut components = json!({ "schemas": schemas });
    if with_keys {
        components["securitySchemes"] = json!({
            KEY: {"type": "http", "scheme": "bearer", "description": "One of the keys of API_KEY."},
            KEY_OF_GRADIO: {"type": "apiKey", "in": "header", "name": auth::HF_AUTHORIZATION.as_str(), "description": "`Bearer` and a key: what Gradio's Python client sends for its `token`."},
            KEY_IN_ADDRESS: {"type": "apiKey", "in": "query", "name": auth::TOKEN, "description": "A key in the address of an event stream, where a browser sends no headers."},
        });
    }
    let tags = TAGS
        .iter()
        .map(|(_, name, about)| json!({"name": name, "description": about}));
    json!({
        "openapi": OPENAPI,
        "info": {
            "title": env!("CARGO_PKG_NAME"),
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
        },
        "tags": tags.collect::<Vec<_>>(),
        "paths": paths,
        "components": components,
    })
}

fn describe(served: &Served, method: &str, operation: Operation, health_path: &str, with_keys: bool) -> Value {
    let shape = Shape::of(&served.path);
    let tags = TAGS.iter().filter(|tag| tag.0 == shape).map(|tag| tag.1);
    let mut responses = operation.responses;
    let error = json!({"schema": error(shape).into_value()});
    responses.insert(
        "default".to_owned(),
        json!({"description": "What went wrong.", "content": {schema::JSON: error}}),
    );
    let mut described = json!({
        "operationId": operation_id(method, &served.path),
        "tags": tags.collect::<Vec<_>>(),
        "description": served.route.meaning,
        "responses": responses,
    });
    if !operation.parameters.is_empty() {
        described["parameters"] = operation.parameters.into();
    }
    let mut bodies = operation.bodies;
    if !bodies.is_empty() && method != "GET" {
        if let Some(body) = bodies.get_mut(schema::JSON) {
            take_null(&mut body["schema"]);
        }
        described["requestBody"] = json!({"required": !operation.body_may_miss, "content": bodies});
    }
    if with_keys && !auth::is_open(&served.path, health_path) {
        let mut security = vec![json!({ KEY: [] }), json!({ KEY_OF_GRADIO: [] })];
        if method == "GET" && auth::is_event_stream(served.route.path) {
            security.push(json!({ KEY_IN_ADDRESS: [] }));
        }
        described["security"] = security.into();
    }
    described
}

/// Says of each field that may be left out that `null` leaves it out too.
fn take_null(schema: &mut Value) {
    let required = schema["required"].clone();
    let is_required = |name: &String| required.as_array().is_some_and(|names| names.contains(&json!(name)));
    if let Some(Value::Object(fields)) = schema.get_mut("properties") {
        for (name, field) in fields {
            take_null(field);
            if !is_required(name) {
                or_null(field);
            }
        }
    }
    for inner in ["items", "anyOf"] {
        match schema.get_mut(inner) {
            Some(Value::Array(schemas)) => schemas.iter_mut().for_each(take_null),
            Some(Value::Null) | None => {}
            Some(schema) => take_null(schema),
        }
    }
}

fn or_null(schema: &mut Value) {
    let nothing = json!({"type": "null"});
    let is_plain = schema.get("anyOf").is_none() && !schema::is_named(schema);
    if let Some(Value::String(kind)) = schema.get("type").filter(|_| is_plain) {
        schema["type"] = json!([kind, "null"]);
        if let Some(Value::Array(names)) = schema.get_mut("enum") {
            names.push(Value::Null);
        }
    } else if let Some(Value::Array(schemas)) = schema.get_mut("anyOf") {
        schemas.push(nothing);
    } else if schema::is_named(schema) {
        *schema = json!({"anyOf": [schema.take(), nothing]});
    }
}

/// An error in the words of an API.
fn error(shape: Shape) -> Schema {
    match shape {
        Shape::Runpod => Schema::of::<runpod::ErrorBody>(),
        Shape::OpenAi => Schema::of::<openai::ErrorBody>(),
        Shape::Kie => Schema::of::<kie::ErrorBody>(),
        Shape::Gradio => Schema::of::<gradio::ErrorBody>(),
        Shape::EditPlus => Schema::of::<edit_plus::ErrorBody>(),
        Shape::Comfyui => Schema::of::<comfyui::ErrorBody>(),
        Shape::ComfyV2 => Schema::of::<comfy_v2::V2Error>(),
    }
}

/// `get_status_id` for `GET /status/{id}`.
fn operation_id(method: &str, path: &str) -> String {
    let words = path
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty());
    let mut id = method.to_ascii_lowercase();
    for word in words {
        id.push('_');
        id.push_str(word);
    }
    id
}

/// What a name in a path may be: without control characters and backslashes (`super::paths`).
const CLEAR: &str = r"^[^\x00-\x1f\x7f\\]+$";

/// The parameters that a path names.
fn path_parameters(path: &str) -> Vec<Value> {
    let names = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names
        .map(|name| {
            let (meaning, example) = match name {
                "id" if path.contains("/assets/") => ("The asset's id.", schema::JOB),
                name => known(name),
            };
            let schema = Schema::text().with("pattern", CLEAR).example(example).into_value();
            json!({"name": name, "in": "path", "required": true, "description": meaning, "schema": schema})
        })
        .collect()
}

/// What a parameter means, and an example.
fn known(parameter: &str) -> (&'static str, &'static str) {
    match parameter {
        "id" | "job" => ("The job's id.", schema::JOB),
        "hash" => (
            "The hash of the bytes: `blake3:` and 64 hexadecimal digits.",
            assets::HASH,
        ),
        "index" => ("The file's number in the job's answer, from 0.", "0"),
        "name" => ("The file's name.", "a.png"),
        "model" => ("The model's id.", "Qwen/Qwen-Image"),
        "session_hash" => ("The client's session.", gradio::SESSION),
        "event_id" => ("The event's id.", schema::JOB),
        "endpoint_id" => ("Any id will do.", "any"),
        "kind" => ("What it is.", "image"),
        "class" => ("The name of the node class.", "KSampler"),
        "folder" => ("The folder of models.", "loras"),
        "file" => ("The file, with `%2F` for a slash in its name.", "workflows%2Fa.json"),
        "rest" => ("The rest of ComfyUI's path.", "models"),
        _ => ("", ""),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::route::API;
    use crate::http::{PING, V2, every_route};

    fn operations(document: &Value) -> Vec<(String, &Value)> {
        let paths = document["paths"].as_object().expect("paths");
        let operations = paths.iter().flat_map(|(path, item)| {
            let methods = item.as_object().expect("methods").iter();
            methods
                .filter(|(method, _)| *method != "parameters")
                .map(move |(method, operation)| (format!("{} {path}", method.to_uppercase()), operation))
        });
        operations.collect()
    }

    #[test]
    fn each_route_is_in_the_document_and_nothing_else() {
        let document = document("/alive", true);
        let described: BTreeSet<String> = operations(&document).into_iter().map(|(name, _)| name).collect();
        let mut routes = BTreeSet::from(["GET /alive".to_owned()]);
        for route in every_route() {
            for method in route.methods {
                routes.insert(format!("{method} {}", without_star(route.path)));
                if route.v2 {
                    routes.insert(format!("{method} {V2}{}", route.path));
                }
                if route.api {
                    routes.insert(format!("{method} {API}{}", without_star(route.path)));
                }
            }
        }
        assert_eq!(described, routes);
    }

    #[test]
    fn the_health_check_takes_over_the_route_of_its_path() {
        let document = document("/health", false);
        assert!(document["paths"]["/health"]["get"]["responses"].get("204").is_some());
        assert!(document["paths"][PING].is_object());
        assert!(
            document["paths"][format!("{V2}/health")]["get"]["responses"]
                .get("204")
                .is_none()
        );
    }

    #[test]
    fn every_operation_is_whole() {
        let document = document(PING, true);
        let mut ids = BTreeSet::new();
        for (name, operation) in operations(&document) {
            assert!(
                ids.insert(operation["operationId"].to_string()),
                "{name}: its id is its own"
            );
            assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{name}");
            let responses = operation["responses"].as_object().expect("responses");
            assert!(responses.len() > 1, "{name}: has an answer beside the error");
            let takes_body = operation.get("requestBody").is_some();
            assert!(!takes_body || name.starts_with("POST"), "{name}");
            for (media_type, body) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
                let schema = &body["schema"];
                let place = schema["$ref"].as_str().and_then(|place| place.strip_prefix('#'));
                let schema = place.and_then(|place| document.pointer(place)).unwrap_or(schema);
                // A file is its own example.
                let is_file = schema["format"] == "binary";
                assert!(
                    is_file || schema["examples"][0].is_object(),
                    "{name} {media_type}: has an example"
                );
            }
        }
        let text = document.to_string();
        assert!(!text.contains("x-name") && !text.contains(r#""description":"""#));
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().expect("a name");
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn what_may_be_left_out_may_be_null() {
        let document = document(PING, false);
        let fields = |name: &str| document["components"]["schemas"][name]["properties"].clone();
        let request = fields("RunpodRequest");
        assert_eq!(request["webhook"]["type"], json!(["string", "null"]));
        assert_eq!(
            request["policy"]["properties"]["ttl"]["type"],
            json!(["integer", "null"])
        );
        let format = &fields("OpenAiGeneration")["response_format"];
        assert!(
            format["enum"]
                .as_array()
                .is_some_and(|names| names.contains(&Value::Null)),
            "{format}"
        );
    }

    #[test]
    fn a_key_is_asked_for_where_keys_are_set_and_the_route_is_not_open() {
        let with_keys = document(PING, true);
        assert!(with_keys["paths"]["/run"]["post"]["security"].is_array());
        for open in [PING, "/openapi.json", "/docs", "/files/{job}/{index}/{name}"] {
            assert!(with_keys["paths"][open]["get"].get("security").is_none(), "{open}");
        }
        let without = document(PING, false).to_string();
        assert!(!without.contains("security"));
    }
}
