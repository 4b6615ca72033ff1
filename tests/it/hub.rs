//! The files that RunPod's Hub reads, against its publishing guide (docs.runpod.io/hub/publishing-guide) and against what
//! the worker itself takes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use qwen_image_worker::config::{self, Config};
use qwen_image_worker::dialect::runpod;
use qwen_image_worker::workflow::Graph;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::image::repository;
use crate::support::shared;

/// RunPod's pools of GPUs (docs.runpod.io/references/gpu-types, GPU pools).
const POOLS: [&str; 11] = [
    "AMPERE_16",
    "AMPERE_24",
    "ADA_24",
    "ADA_32_PRO",
    "AMPERE_48",
    "ADA_48_PRO",
    "AMPERE_80",
    "ADA_80_PRO",
    "BLACKWELL_96",
    "HOPPER_141",
    "BLACKWELL_180",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hub {
    title: String,
    description: String,
    #[serde(rename = "type")]
    kind: String,
    category: Category,
    #[serde(rename = "iconUrl")]
    icon_url: Option<url::Url>,
    config: HubConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Category {
    Audio,
    Embedding,
    Language,
    Video,
    Image,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct HubConfig {
    runs_on: RunsOn,
    endpoint_type: Option<String>,
    container_disk_in_gb: u32,
    gpu_count: u32,
    gpu_ids: String,
    allowed_cuda_versions: Vec<String>,
    presets: Vec<Preset>,
    env: Vec<Entry>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum RunsOn {
    Gpu,
    Cpu,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Preset {
    name: String,
    defaults: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: String,
    value: Option<String>,
    input: Option<Input>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Input {
    name: String,
    #[serde(rename = "type")]
    kind: Kind,
    description: String,
    default: Option<Value>,
    #[serde(default)]
    options: Vec<Choice>,
    min: Option<i64>,
    max: Option<i64>,
    true_value: Option<String>,
    false_value: Option<String>,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    advanced: bool,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    String,
    Number,
    Boolean,
    Huggingface,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    label: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tests {
    tests: Vec<Test>,
    config: TestsConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    name: String,
    input: Map<String, Value>,
    /// Milliseconds.
    timeout: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TestsConfig {
    gpu_type_id: String,
    gpu_count: u32,
    env: Vec<Entry>,
    allowed_cuda_versions: Vec<String>,
}

impl Input {
    /// The value as it reaches the environment.
    fn text(&self, value: &Value) -> String {
        match (&self.kind, value) {
            (Kind::Boolean, Value::Bool(true)) => self.true_value.clone().expect("trueValue"),
            (Kind::Boolean, Value::Bool(false)) => self.false_value.clone().expect("falseValue"),
            (Kind::String | Kind::Huggingface, Value::String(text)) => text.clone(),
            (Kind::Number, Value::Number(number)) => number.to_string(),
            _ => panic!("{}: {value} is no {:?}", self.name, self.kind),
        }
    }

    /// The values that a person may choose without writing anything, and the ends of a range.
    fn values(&self) -> Vec<String> {
        let given = self.default.iter().map(|value| self.text(value));
        let options = self.options.iter().map(|choice| choice.value.clone());
        let ends = [self.min, self.max]
            .into_iter()
            .flatten()
            .map(|number| number.to_string());
        let switch = [&self.true_value, &self.false_value].into_iter().flatten().cloned();
        given.chain(options).chain(ends).chain(switch).collect()
    }
}

fn read<T: DeserializeOwned>(path: &str) -> T {
    let text = fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A configuration of these variables, on a worker that has a bucket unless they say that it has none.
#[track_caller]
fn accepts(vars: &BTreeMap<String, String>) {
    let none = vars.get("BUCKET_ENDPOINT_URL").is_some_and(String::is_empty);
    let bucket = config::variables()
        .into_iter()
        .filter(|variable| !none && variable.name.starts_with("BUCKET_"));
    let mut all: BTreeMap<String, String> = bucket
        .map(|variable| (variable.name.to_owned(), variable.example.to_owned()))
        .collect();
    all.extend(vars.clone());
    if let Err(error) = Config::from_vars(all) {
        panic!("{vars:?}: {error}");
    }
}

fn versions(text: &str) -> (u32, u32) {
    let (major, minor) = text.split_once('.').expect("12.8");
    (major.parse().expect("a number"), minor.parse().expect("a number"))
}

#[test]
fn hub_json_is_as_the_guide_says() {
    let hub: Hub = read(".runpod/hub.json");
    assert!(!hub.title.is_empty() && !hub.description.is_empty());
    assert_eq!(hub.kind, "serverless");
    assert!(matches!(hub.category, Category::Image));
    assert!(hub.icon_url.is_none_or(|url| url.scheme() == "https"));
    assert_eq!(hub.config.runs_on, RunsOn::Gpu);
    assert_eq!(hub.config.endpoint_type, None, "an endpoint with a queue");
    // ComfyUI with torch takes 8 GB, the models of one template up to 35.
    assert!(hub.config.container_disk_in_gb >= 50 && hub.config.gpu_count == 1);
    for pool in hub.config.gpu_ids.split(',') {
        assert!(POOLS.contains(&pool), "{pool} is no pool of GPUs");
    }
    // What torch was built with is the oldest that will do.
    assert!(
        hub.config
            .allowed_cuda_versions
            .iter()
            .all(|version| versions(version) >= (12, 8))
    );
    for needed in ["handler.py", "Dockerfile", "README.md"] {
        assert!(repository().join(needed).is_file(), "the Hub wants {needed}");
    }
}

#[test]
fn every_field_of_the_hubs_form_is_whole() {
    let hub: Hub = read(".runpod/hub.json");
    let mut keys = BTreeSet::new();
    for entry in &hub.config.env {
        let key = &entry.key;
        assert!(keys.insert(key), "{key} comes twice");
        let (Some(input), None) = (&entry.input, &entry.value) else {
            panic!("{key} has no input");
        };
        assert!(!input.name.is_empty() && !input.description.is_empty(), "{key}");
        assert!(
            !(input.required && (input.advanced || input.default.is_some())),
            "{key} is asked for, and hidden"
        );
        let range = input.min.is_some() && input.max.is_some();
        assert_eq!(input.kind == Kind::Number, range, "{key}: a number has its limits");
        let switch = input.true_value.is_some() && input.false_value.is_some() && input.default.is_some();
        assert_eq!(
            input.kind == Kind::Boolean,
            switch,
            "{key}: a switch has both values and a default"
        );
        if !input.options.is_empty() {
            assert!(input.options.iter().all(|choice| !choice.label.is_empty()), "{key}");
            let default = input.default.as_ref().and_then(Value::as_str).expect("a default");
            assert!(
                input.options.iter().any(|choice| choice.value == default),
                "{key}: {default} is no option"
            );
        }
    }
    for preset in &hub.config.presets {
        assert!(!preset.name.is_empty());
        for key in preset.defaults.keys() {
            assert!(keys.contains(key), "{}: {key} is not in the form", preset.name);
        }
    }
}

#[test]
fn secrets_have_no_default() {
    let hub: Hub = read(".runpod/hub.json");
    let secret = |key: &str| {
        let ours = config::variables()
            .into_iter()
            .any(|variable| variable.secret && variable.name == key);
        ours || key.contains("KEY") || key.contains("TOKEN") || key.contains("SECRET")
    };
    let inputs = hub
        .config
        .env
        .iter()
        .filter_map(|entry| Some((&entry.key, entry.input.as_ref()?)));
    for (key, input) in inputs.filter(|(key, _)| secret(key)) {
        assert!(input.default.is_none() && input.options.is_empty(), "{key}");
    }
    for preset in &hub.config.presets {
        assert!(!preset.defaults.keys().any(|key| secret(key)), "{}", preset.name);
    }
}

#[test]
fn the_worker_takes_every_value_that_the_form_offers() {
    let hub: Hub = read(".runpod/hub.json");
    let known: BTreeSet<&str> = config::variables().iter().map(|variable| variable.name).collect();
    let mut inputs = BTreeMap::new();
    for entry in &hub.config.env {
        let (key, input) = (entry.key.as_str(), entry.input.as_ref().expect("an input"));
        assert!(known.contains(key), "nobody reads {key}");
        for value in input.values() {
            accepts(&BTreeMap::from([(key.to_owned(), value)]));
        }
        inputs.insert(key, input);
    }
    let defaults = inputs.iter().filter_map(|(key, input)| {
        let default = input.default.as_ref()?;
        Some(((*key).to_owned(), input.text(default)))
    });
    let defaults: BTreeMap<String, String> = defaults.collect();
    accepts(&defaults);
    for preset in &hub.config.presets {
        let mut vars = defaults.clone();
        for (key, value) in &preset.defaults {
            vars.insert(key.clone(), inputs[key.as_str()].text(value));
        }
        accepts(&vars);
    }
}

#[tokio::test]
async fn the_hubs_tests_pass() {
    let file: Tests = read(".runpod/tests.json");
    assert!(!file.config.gpu_type_id.is_empty() && file.config.gpu_count == 1);
    let hub: Hub = read(".runpod/hub.json");
    assert_eq!(file.config.allowed_cuda_versions, hub.config.allowed_cuda_versions);
    let vars = file
        .config
        .env
        .iter()
        .map(|entry| (entry.key.clone(), entry.value.clone().expect("a value")));
    accepts(&vars.collect());
    let worker = shared().await;
    for test in file.tests {
        assert!(!test.name.is_empty() && test.timeout >= 60_000);
        // As the queue hands it to a worker.
        let job = json!({"id": "test", "input": test.input});
        let parsed = runpod::parse(job.to_string().as_bytes());
        parsed.unwrap_or_else(|error| panic!("{}: {}", test.name, error.full_text()));
        let graph = Graph::parse(&job["input"]["workflow"]);
        graph.unwrap_or_else(|error| panic!("{}: {}", test.name, error.full_text()));
        let answer = worker.run(job["input"].clone()).await.completed();
        assert_eq!(answer.images().len(), 1, "{}", test.name);
    }
}

#[test]
fn the_pages_name_no_variable_that_nobody_reads() {
    let known: BTreeSet<&str> = config::variables().iter().map(|variable| variable.name).collect();
    let variable = |name: &&str| {
        name.contains('_')
            && name
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
    };
    for page in [
        "docs/deployment.md",
        "docs/apis.md",
        "docs/comfyui.md",
        "docs/custom-nodes.md",
    ] {
        let text = fs::read_to_string(repository().join(page)).expect("the page");
        // In code: `NAME` and `NAME=value`.
        let names = text
            .split('`')
            .skip(1)
            .step_by(2)
            .map(|code| code.split('=').next().unwrap_or_default());
        let names: BTreeSet<&str> = names.filter(variable).collect();
        assert!(names.len() > 5, "{page}: {names:?}");
        for name in names {
            assert!(known.contains(name), "{page}: nobody reads {name}");
        }
    }
}
