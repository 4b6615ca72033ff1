//! What a Space takes, as it tells itself.

use reqwest::StatusCode;
use serde_json::Value;

use super::ANSWERS;
use crate::echo::cut;
use crate::engine::remote::meaning::refused;
use crate::engine::remote::rest::Cause;
use crate::engine::remote::terms::{Fitted, Size};
use crate::engine::remote::{Refusal, Web};
use crate::error::{ErrorKind, JobError};

/// The function that makes pictures.
const INFER: &str = "infer";
/// The longest of what the paths of its API begin with.
const LONGEST_PREFIX: usize = 100;

/// A Space that is there.
#[derive(Debug, PartialEq)]
pub(super) struct Space {
    /// What the paths of its API begin with; empty for none.
    pub(super) prefix: String,
    /// The number of `/infer`.
    pub(super) function: u64,
    /// What `/infer` takes, in this order; [`None`]: something that only its own page fills.
    inputs: Vec<Option<Parameter>>,
}

/// A parameter of `/infer`.
#[derive(Debug, Clone, PartialEq)]
struct Parameter {
    name: String,
    usual: Option<Value>,
    /// The values that it takes, where these are all.
    choices: Option<Vec<Value>>,
}

impl Web {
    /// Looks at what the Space is now. Nothing is sent yet that is paid for.
    pub(super) async fn space(&self) -> Result<Space, Refusal> {
        let config = self.told("config").await?;
        // Gradio 4 has none.
        let prefix = config
            .get("api_prefix")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .trim_end_matches('/');
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.~".contains(c);
        let is_path = prefix.is_empty() || (prefix.starts_with('/') && !prefix.contains(".."));
        if !is_path || prefix.len() > LONGEST_PREFIX || !prefix.chars().all(is_plain) {
            return Err(self.is_no_space("its api_prefix is no path"));
        }
        let info = self.told(format!("{prefix}/info").trim_start_matches('/')).await?;
        Space::read(&config, &info, prefix).map_err(|why| self.is_no_space(&why))
    }

    fn is_no_space(&self, why: &str) -> Refusal {
        let message = format!(
            "engine `{}` is no Space of the form of Qwen/Qwen-Image: {why}",
            self.spec().name
        );
        let error = JobError::new(ErrorKind::ComfyUnavailable, message);
        Refusal::Rests(
            Cause::Barred,
            error.hint("See the engine's `space` or `url`; a private Space needs a `key`."),
        )
    }

    async fn told(&self, operation: &str) -> Result<Value, Refusal> {
        let name = &self.spec().name;
        let answer = match self.send(self.http.get(self.at(operation)), ANSWERS).await {
            Ok(answer) => answer,
            // A question: nothing was taken.
            Err(refusal) => return Err(Refusal::Rests(Cause::Unreached, refusal.into_error())),
        };
        match answer.whole_object().await {
            Some(object) if answer.status.is_success() => Ok(object.value),
            _ if answer.status == StatusCode::NOT_FOUND || answer.status.is_redirection() => {
                Err(self.is_no_space(&format!("/{operation} answers {}", answer.status)))
            }
            _ if answer.status.is_client_error() => Err(refused(name, &answer)),
            _ => {
                let message = format!(
                    "engine `{name}` is not running ({}): it may sleep, or be being built",
                    answer.status
                );
                let error = JobError::new(ErrorKind::ComfyUnavailable, message);
                Err(Refusal::Rests(Cause::Limited(None), error))
            }
        }
    }
}

impl Space {
    /// Reads what a Space tells of itself. Fails with why it is not of the form.
    fn read(config: &Value, info: &Value, prefix: &str) -> Result<Self, String> {
        let list = |value: &Value, field: &str| value.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
        let functions = list(config, "dependencies");
        let name_of = |function: &Value| function.get("api_name").and_then(Value::as_str).map(str::to_owned);
        let position = functions
            .iter()
            .position(|function| name_of(function).as_deref() == Some(INFER));
        let Some(position) = position else {
            let names: Vec<_> = functions
                .iter()
                .filter_map(name_of)
                .map(|name| format!("/{}", cut(&name)))
                .collect();
            return Err(format!("it has no function /{INFER}, but {}", names.join(", ")));
        };
        let function = &functions[position];
        let number = function.get("id").and_then(Value::as_u64);
        let parameters = info
            .get("named_endpoints")
            .and_then(|named| named.get(format!("/{INFER}")));
        let parameters = parameters.map(|infer| list(infer, "parameters")).unwrap_or_default();
        let mut parameters = parameters.iter().map(Parameter::read);
        // What only the page fills, such as its state, is no parameter, but has its place.
        let components = list(config, "components");
        let is_of_page = |id: &Value| {
            let mut components = components.iter();
            let component = components.find(|component| component.get("id") == Some(id));
            component.is_some_and(|component| {
                let is_skipped = component.get("skip_api").and_then(Value::as_bool).unwrap_or_default();
                is_skipped || component.get("type").and_then(Value::as_str) == Some("state")
            })
        };
        let mut inputs = Vec::new();
        for id in list(function, "inputs") {
            if is_of_page(&id) {
                inputs.push(None);
            } else {
                let parameter = parameters.next();
                inputs.push(Some(parameter.ok_or("it does not name all parameters of its /infer")??));
            }
        }
        // One of ours tells no components.
        for parameter in parameters {
            inputs.push(Some(parameter?));
        }
        Ok(Self {
            prefix: prefix.to_owned(),
            function: number.unwrap_or(position as u64),
            inputs,
        })
    }

    /// What `/infer` is asked with. Fails with what it does not take.
    pub(super) fn arguments(&self, prompt: &str, fitted: &Fitted) -> Result<Vec<Value>, String> {
        let ratio = match fitted.size {
            Some(Size::Named(ratio)) => Some(Value::from(ratio)),
            _ => None,
        };
        let asked = [
            ("prompt", Some(Value::from(prompt))),
            ("seed", fitted.seed.map(Value::from)),
            ("randomize_seed", Some(fitted.seed.is_none().into())),
            ("aspect_ratio", ratio),
            ("guidance_scale", fitted.cfg.map(Value::from)),
            ("num_inference_steps", fitted.steps.map(Value::from)),
            // What was asked for is what is made.
            ("prompt_enhance", Some(false.into())),
        ];
        let is_there = |name: &str| self.inputs.iter().flatten().any(|parameter| parameter.name == name);
        let is_needed = |name: &str| !["randomize_seed", "prompt_enhance"].contains(&name);
        let lost = asked
            .iter()
            .find(|(name, value)| value.is_some() && is_needed(name) && !is_there(name));
        if let Some((name, _)) = lost {
            return Err(format!("its /{INFER} has no parameter `{name}`"));
        }
        let value_of = |parameter: &Parameter| {
            let named = asked.iter().find(|(name, _)| *name == parameter.name);
            let name = cut(&parameter.name);
            let Some(value) = named.and_then(|(_, value)| value.clone()) else {
                let usual = parameter.usual.clone();
                return usual.ok_or_else(|| format!("its /{INFER} needs `{name}`, which no request has"));
            };
            if parameter
                .choices
                .as_ref()
                .is_some_and(|choices| !choices.contains(&value))
            {
                return Err(format!(
                    "its /{INFER} does not take {} for `{name}`",
                    cut(&value.to_string())
                ));
            }
            Ok(value)
        };
        let inputs = self.inputs.iter();
        inputs
            .map(|input| input.as_ref().map_or(Ok(Value::Null), value_of))
            .collect()
    }
}

impl Parameter {
    fn read(told: &Value) -> Result<Self, String> {
        let name = told.get("parameter_name").and_then(Value::as_str);
        let name = name.ok_or_else(|| format!("its /{INFER} has a parameter without a name"))?;
        let has_usual = told
            .get("parameter_has_default")
            .and_then(Value::as_bool)
            .unwrap_or_default();
        let usual = told.get("parameter_default").cloned();
        let choices = told.get("type").and_then(|kind| kind.get("enum")?.as_array()).cloned();
        Ok(Self {
            name: name.to_owned(),
            usual: usual.filter(|_| has_usual),
            choices,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parameter(name: &str, usual: &Value) -> Value {
        json!({"parameter_name": name, "parameter_has_default": !usual.is_null(), "parameter_default": usual})
    }

    fn read(parameters: &Value) -> Result<Space, String> {
        let config = json!({
            "components": [{"id": 3, "type": "textbox"}, {"id": 4, "type": "state"}, {"id": 5, "type": "slider"}],
            "dependencies": [{"id": 9, "api_name": "clear"}, {"id": 11, "api_name": "infer", "inputs": [3, 4, 5]}],
        });
        let info = json!({"named_endpoints": {"/infer": {"parameters": parameters}}});
        Space::read(&config, &info, "/gradio_api")
    }

    #[test]
    fn a_space_is_asked_for_what_it_has_in_its_order() {
        let mut ratio = parameter("aspect_ratio", &json!("16:9"));
        ratio["type"] = json!({"enum": ["1:1", "16:9"]});
        let parameters = json!([
            parameter("prompt", &Value::Null),
            parameter("seed", &json!(0)),
            ratio,
            parameter("guidance_scale", &json!(4)),
            parameter("style", &json!("none")),
            parameter("prompt_enhance", &json!(true)),
        ]);
        let space = read(&parameters).unwrap();
        assert_eq!(space.function, 11);
        let mut fitted = Fitted {
            seed: Some(7),
            size: Some(Size::Named("1:1")),
            ..Fitted::default()
        };
        let expected = json!(["a fox", null, 7, "1:1", 4, "none", false]);
        assert_eq!(Value::Array(space.arguments("a fox", &fitted).unwrap()), expected);
        fitted.size = Some(Size::Named("3:2"));
        let why = space.arguments("a fox", &fitted).unwrap_err();
        assert!(why.contains("does not take \"3:2\" for `aspect_ratio`"), "{why}");
        fitted.size = None;
        fitted.steps = Some(8);
        let why = space.arguments("a fox", &fitted).unwrap_err();
        assert!(why.contains("no parameter `num_inference_steps`"), "{why}");
        let mut more = parameters.as_array().unwrap().clone();
        more.push(parameter("token", &Value::Null));
        fitted.steps = None;
        let why = read(&Value::Array(more))
            .unwrap()
            .arguments("a fox", &fitted)
            .unwrap_err();
        assert!(why.contains("needs `token`"), "{why}");
    }

    #[test]
    fn a_space_of_another_form_says_what_it_has() {
        let config = json!({"dependencies": [{"api_name": "predict"}, {"api_name": false}]});
        let why = Space::read(&config, &json!({}), "").unwrap_err();
        assert!(why.contains("no function /infer, but /predict"), "{why}");
    }
}
