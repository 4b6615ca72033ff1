//! What the clients ask for first: `/config` and `/gradio_api/info`, both made from one table of parameters.
//!
//! The fields are those that the clients read. `root` is left out of the configuration on purpose: npm's client would
//! send everything to it, and only the client knows the address by which it came.

use std::ops::RangeInclusive;

use serde::Serialize;
use serde_json::{Value, json};

use super::input::{GUIDANCE_SCALE, PARAMETERS, SEED, STEPS};
use crate::workflow::limits;

/// The version of Gradio whose protocol is spoken. Clients compare it.
const VERSION: &str = "6.31.0";
/// The protocol of the event stream.
const PROTOCOL: &str = "sse_v3";

/// A value that goes into `/infer`, or comes out of it.
struct Component {
    label: &'static str,
    /// Gradio's component.
    class: &'static str,
    /// How Python calls the type.
    python: String,
    /// The JSON schema of the value.
    schema: Value,
    /// What the component shows beside its label.
    props: Value,
    example: Value,
}

/// A parameter of `/infer`.
struct Parameter {
    name: &'static str,
    default: Option<Value>,
    component: Component,
}

fn text(label: &'static str) -> Component {
    Component {
        label,
        class: "Textbox",
        python: "str".to_owned(),
        schema: json!({"type": "string"}),
        props: json!({"type": "text"}),
        example: json!("Hello!!"),
    }
}

/// A number in a range.
fn slider(label: &'static str, range: &RangeInclusive<impl Serialize>, step: &Value) -> Component {
    let [minimum, maximum] = [range.start(), range.end()].map(|bound| plain(json!(bound)));
    Component {
        label,
        class: "Slider",
        python: "float".to_owned(),
        schema: json!({"type": "number", "description": format!("numeric value between {minimum} and {maximum}")}),
        props: json!({"minimum": minimum, "maximum": maximum, "step": step}),
        example: minimum,
    }
}

fn checkbox(label: &'static str) -> Component {
    Component {
        label,
        class: "Checkbox",
        python: "bool".to_owned(),
        schema: json!({"type": "boolean"}),
        props: json!({}),
        example: json!(true),
    }
}

fn radio(label: &'static str) -> Component {
    let names: Vec<_> = limits::aspect_ratios().collect();
    let choices: Vec<_> = names.iter().map(|name| [name, name]).collect();
    let quoted: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
    Component {
        label,
        class: "Radio",
        python: format!("Literal[{}]", quoted.join(", ")),
        schema: json!({"enum": names, "title": "Radio", "type": "string"}),
        props: json!({"choices": choices, "type": "value"}),
        example: json!(names.first()),
    }
}

fn number(label: &'static str) -> Component {
    Component {
        label,
        class: "Number",
        python: "float".to_owned(),
        schema: json!({"type": "number"}),
        props: json!({"step": 1}),
        example: json!(3),
    }
}

/// A number as the Space writes it: 4 for 4.0.
fn plain(number: Value) -> Value {
    let text = number.as_f64().map(|number| number.to_string());
    text.and_then(|text| text.parse().ok()).unwrap_or(number)
}

/// The seven parameters with the Space's defaults.
fn parameters() -> Vec<Parameter> {
    let components = [
        text("Prompt"),
        slider("Seed", &SEED.rule, &json!(1)),
        checkbox("Randomize seed"),
        radio("Aspect ratio"),
        slider("Guidance scale", &GUIDANCE_SCALE.rule, &json!(0.1)),
        slider("Number of inference steps", &STEPS.rule, &json!(1)),
        checkbox("Prompt Enhance"),
    ];
    let parameters = PARAMETERS.iter().zip(components);
    parameters
        .map(|(field, component)| Parameter {
            name: field.name(),
            default: field.schema().usual().map(plain),
            component,
        })
        .collect()
}

/// What comes out: the picture as a data URI, and the seed.
fn returns() -> [Component; 2] {
    [text("Result"), number("Seed")]
}

/// The body of `/config`.
pub fn config() -> Value {
    let parameters = parameters();
    let inputs = parameters.iter().map(|one| (&one.component, one.default.as_ref()));
    let returns = returns();
    let outputs = returns.iter().map(|one| (one, None));
    let components: Vec<_> = inputs
        .chain(outputs)
        .enumerate()
        .map(|(index, (component, default))| {
            let class = component.class.to_ascii_lowercase();
            let mut props = component.props.clone();
            props["label"] = json!(component.label);
            props["name"] = json!(class);
            if let Some(default) = default {
                props["value"] = default.clone();
            }
            json!({
                "id": index + 1,
                "type": class,
                "props": props,
                "skip_api": false,
                "api_info": component.schema,
                "api_info_as_input": component.schema,
                "api_info_as_output": component.schema,
                "example_inputs": component.example,
            })
        })
        .collect();
    let last_input = parameters.len();
    json!({
        "version": VERSION,
        "api_prefix": "/gradio_api",
        "mode": "blocks",
        "app_id": 1,
        "title": "Qwen-Image",
        "protocol": PROTOCOL,
        "enable_queue": true,
        "show_error": true,
        "connect_heartbeat": false,
        "is_colab": false,
        "components": components,
        "dependencies": [{
            "id": 0,
            "api_name": "infer",
            "targets": [],
            "inputs": (1..=last_input).collect::<Vec<_>>(),
            "outputs": (last_input + 1..=last_input + returns.len()).collect::<Vec<_>>(),
            "backend_fn": true,
            "queue": true,
            "show_api": true,
            "api_visibility": "public",
            "batch": false,
            "connection": "sse",
            "types": {"generator": false, "cancel": false},
        }],
    })
}

/// The body of `/gradio_api/info`. The clients check names, defaults and missing values by it before they ask.
pub fn info() -> Value {
    let parameters: Vec<_> = parameters()
        .into_iter()
        .map(
            |Parameter {
                 name,
                 default,
                 component,
             }| {
                json!({
                    "label": component.label,
                    "parameter_name": name,
                    "parameter_has_default": default.is_some(),
                    "parameter_default": default,
                    "type": component.schema,
                    "python_type": {"type": component.python, "description": ""},
                    "component": component.class,
                    "example_input": component.example,
                })
            },
        )
        .collect();
    let returns: Vec<_> = returns()
        .into_iter()
        .map(|component| {
            json!({
                "label": component.label,
                "type": component.schema,
                "python_type": {"type": component.python, "description": ""},
                "component": component.class,
            })
        })
        .collect();
    json!({
        "named_endpoints": {
            "/infer": {
                "parameters": parameters,
                "returns": returns,
                "api_visibility": "public",
                "show_api": true,
                "description": "",
            },
        },
        "unnamed_endpoints": {},
    })
}
