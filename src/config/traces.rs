//! Traces by OTLP, under the standard variables of OpenTelemetry. Those that its SDK reads by itself are declared here too: they are
//! checked and listed with the others.

use url::Url;

use super::variable::{Reader, Secret, Variable, parsed, switch, text, web_address};

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracesConfig {
    /// The address that spans are posted to; [`None`]: there are no traces.
    pub endpoint: Option<Url>,
    /// The name of the service; [`None`]: `OTEL_RESOURCE_ATTRIBUTES` has it.
    pub service_name: Option<String>,
}

/// The name of the service that nobody named.
const SERVICE: &str = "qwen-image-worker";
/// What is appended to the address of everything.
const PATH: &str = "v1/traces";
/// The protocol that we speak.
const PROTOCOL: &str = "http/protobuf";

const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

const OTEL_EXPORTER_OTLP_ENDPOINT: Variable<String> = text("OTEL_EXPORTER_OTLP_ENDPOINT", "http or https URL")
    .hidden()
    .example("http://collector:4318")
    .meaning("Where traces of jobs are sent to, by OTLP over HTTP (protobuf): `/v1/traces` is appended. Not set, nor the next one: there are no traces.");
const OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: Variable<String> =
    text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http or https URL")
        .hidden()
        .example("https://otlp.example.com/v1/traces")
        .meaning("The same for traces alone, taken as it is.");
const OTEL_EXPORTER_OTLP_HEADERS: Variable<Secret> =
    parsed("OTEL_EXPORTER_OTLP_HEADERS", "names=values, comma-separated", pairs)
        .hidden()
        .example("authorization=Bearer%200123456789abcdef")
        .meaning("Headers that go with them, such as a key. Values are percent-encoded.");
const OTEL_EXPORTER_OTLP_TRACES_HEADERS: Variable<Secret> = parsed(
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "names=values, comma-separated",
    pairs,
)
.hidden()
.example("authorization=Bearer%200123456789abcdef")
.meaning("The same for traces alone.");
const OTEL_EXPORTER_OTLP_PROTOCOL: Variable<String> = text("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    .default_and_example(PROTOCOL, PROTOCOL)
    .meaning("The protocol; with another one there are no traces, and a warning tells so.");
const OTEL_TRACES_EXPORTER: Variable<String> = text("OTEL_TRACES_EXPORTER", "otlp or none")
    .default_and_example("otlp", "none")
    .meaning("`none`: there are no traces, whatever the endpoint is.");
const OTEL_SDK_DISABLED: Variable<bool> =
    switch("OTEL_SDK_DISABLED", false).meaning("`true`: there are no traces, whatever the endpoint is.");
const OTEL_SERVICE_NAME: Variable<String> = text("OTEL_SERVICE_NAME", "name")
    .example("pictures")
    .meaning("The service that traces are of. Not set: `service.name` of the next one, else `qwen-image-worker`.");
const OTEL_RESOURCE_ATTRIBUTES: Variable<String> =
    parsed("OTEL_RESOURCE_ATTRIBUTES", "names=values, comma-separated", attributes)
        .example("deployment.environment.name=production,service.instance.id=worker-7")
        .meaning("What else is to be told of this worker with each trace.");
const OTEL_TRACES_SAMPLER: Variable<String> = text(
    "OTEL_TRACES_SAMPLER",
    "always_on, always_off, traceidratio or parentbased_ and one of these",
)
.default_and_example("parentbased_always_on", "parentbased_traceidratio")
.meaning("Which jobs are traced. `parentbased_…`: those whose request brings a `traceparent` that says so, and of the others as the rest of the name says.");
const OTEL_TRACES_SAMPLER_ARG: Variable<String> = text("OTEL_TRACES_SAMPLER_ARG", "number, 0 to 1")
    .example("0.1")
    .meaning("The share of jobs for `traceidratio`. Not set: all of them.");

/// Reads pairs as OpenTelemetry writes them (W3C Baggage).
fn pairs(text: &str) -> Result<Secret, String> {
    attributes(text).map(Secret::new)
}

fn attributes(text: &str) -> Result<String, String> {
    let mut given = text.split(',').filter(|pair| !pair.trim().is_empty());
    let is_pair = |pair: &str| pair.split_once('=').is_some_and(|(name, _)| !name.trim().is_empty());
    if given.all(is_pair) {
        Ok(text.to_owned())
    } else {
        Err("has something without a name and `=`".to_owned())
    }
}

fn is_share(text: &str) -> bool {
    text.parse::<f64>().is_ok_and(|share| (0.0..=1.0).contains(&share))
}

/// What somebody sets for all programs of a cluster may be for others: it is warned of, and keeps nobody from starting.
pub(super) fn read(reader: &mut Reader) -> TracesConfig {
    let everything = address(reader, &OTEL_EXPORTER_OTLP_ENDPOINT).map(|url| below(&url));
    let endpoint = address(reader, &OTEL_EXPORTER_OTLP_TRACES_ENDPOINT).or(everything);
    // These two are the SDK's to read.
    reader.optional(&OTEL_EXPORTER_OTLP_HEADERS);
    reader.optional(&OTEL_EXPORTER_OTLP_TRACES_HEADERS);
    let protocol = reader.value(&OTEL_EXPORTER_OTLP_PROTOCOL);
    let exporter = reader.value(&OTEL_TRACES_EXPORTER);
    let disabled = reader.value(&OTEL_SDK_DISABLED);
    let service_name = reader.optional(&OTEL_SERVICE_NAME);
    let attributes = reader.optional(&OTEL_RESOURCE_ATTRIBUTES).unwrap_or_default();
    // And these.
    let sampler = reader.value(&OTEL_TRACES_SAMPLER);
    let share = reader.optional(&OTEL_TRACES_SAMPLER_ARG);
    let is_wanted = endpoint.is_some() && !disabled && exporter != "none";
    let is_spoken = protocol == PROTOCOL && exporter == "otlp";
    if is_wanted && !is_spoken {
        reader.warnings.push(format!(
            "there are no traces: OTEL_TRACES_EXPORTER=otlp with OTEL_EXPORTER_OTLP_PROTOCOL={PROTOCOL} is the only way that they are sent"
        ));
    }
    if is_wanted && !SAMPLERS.contains(&sampler.as_str()) {
        let known = SAMPLERS.join(", ");
        reader
            .warnings
            .push(format!("every job is traced: OTEL_TRACES_SAMPLER is none of {known}"));
    }
    if is_wanted && sampler.ends_with("traceidratio") && share.is_some_and(|share| !is_share(&share)) {
        let warning = "every job is traced: OTEL_TRACES_SAMPLER_ARG is no number from 0 to 1";
        reader.warnings.push(warning.to_owned());
    }
    let is_named = attributes
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .any(|(name, _)| name.trim() == "service.name");
    TracesConfig {
        endpoint: endpoint.filter(|_| is_wanted && is_spoken),
        service_name: service_name.or_else(|| (!is_named).then(|| SERVICE.to_owned())),
    }
}

/// The address that a variable has; a warning where that is none.
fn address(reader: &mut Reader, variable: &Variable<String>) -> Option<Url> {
    let text = reader.optional(variable)?;
    match web_address(&text) {
        Ok(url) => Some(url),
        Err(why) => {
            let name = variable.name;
            reader
                .warnings
                .push(format!("there are no traces by {name}, which {why}"));
            None
        }
    }
}

/// Where traces go below an address.
fn below(url: &Url) -> Url {
    let mut url = url.clone();
    let folder = url.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("{folder}/{PATH}"));
    url
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let base = [("HOME", "/home/somebody")];
        let vars = base.iter().chain(vars);
        Config::from_vars(vars.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    fn endpoint(vars: &[(&str, &str)]) -> Option<String> {
        config(vars).unwrap().traces.endpoint.map(Into::into)
    }

    const ALL: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    #[test]
    fn traces_go_where_the_standard_says() {
        assert_eq!(endpoint(&[]), None);
        assert_eq!(endpoint(&[ALL]).unwrap(), "http://collector:4318/v1/traces");
        assert_eq!(
            endpoint(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://a.example.com/otlp/")]).unwrap(),
            "https://a.example.com/otlp/v1/traces"
        );
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://other:1/here");
        assert_eq!(endpoint(&[ALL, own]).unwrap(), "http://other:1/here");
        for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(endpoint(&[ALL, off]), None);
            assert!(config(&[ALL, off]).unwrap().warnings.is_empty());
        }
        let spoken = config(&[ALL, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap();
        assert!(spoken.traces.endpoint.is_none() && spoken.warnings[0].contains("http/protobuf"));
    }

    #[test]
    fn the_service_has_the_name_that_it_was_given() {
        let name = |vars: &[(&str, &str)]| config(vars).unwrap().traces.service_name;
        assert_eq!(name(&[]).unwrap(), SERVICE);
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name=c");
        assert_eq!(name(&[attributes]), None);
        assert_eq!(name(&[attributes, ("OTEL_SERVICE_NAME", "d")]).unwrap(), "d");
    }

    #[test]
    fn what_is_for_other_programs_keeps_nobody_from_starting() {
        let warnings = |vars: &[(&str, &str)]| config(vars).unwrap().warnings;
        let other = ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317");
        assert!(warnings(&[other])[0].contains("OTEL_EXPORTER_OTLP_ENDPOINT"));
        assert_eq!(endpoint(&[other]), None);
        let sampler = ("OTEL_TRACES_SAMPLER", "jaeger_remote");
        assert!(warnings(&[ALL, sampler])[0].contains("OTEL_TRACES_SAMPLER"));
        assert!(warnings(&[sampler]).is_empty(), "nothing is traced");
        let share = ("OTEL_TRACES_SAMPLER_ARG", "endpoint=http://agent:1");
        assert!(warnings(&[ALL, ("OTEL_TRACES_SAMPLER", "traceidratio"), share])[0].contains("_ARG"));
        assert!(warnings(&[ALL, share]).is_empty(), "it is of no use");
    }

    #[test]
    fn what_is_wrong_is_told_and_no_secret_is() {
        let error = config(&[("OTEL_EXPORTER_OTLP_HEADERS", "key-4711")]).unwrap_err();
        assert_eq!(error.mistakes.len(), 1, "{error}");
        assert!(!error.to_string().contains("4711"), "{error}");
    }
}
