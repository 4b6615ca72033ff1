//! The flags of a handler that RunPod's Python SDK starts (runpod-python 1.12.0, `serverless/__init__.py`), so that a
//! command line made for worker-comfyui works here too.

use std::net::IpAddr;

use clap::Args;

use super::{Command, OUT, Work};
use crate::config::{self, Config};

/// Where the SDK's API listens unless told otherwise.
const API_PORT: u16 = 8000;

/// Flags without a command. None of them given: what the environment asks for.
#[derive(Debug, Args)]
#[command(next_help_heading = "As RunPod's Python SDK takes them, without a command")]
pub(super) struct SdkArguments {
    /// Run one job from this text, write its images to out/, print its result.
    #[arg(long = "test_input", value_name = "JSON", conflicts_with = "serve_api")]
    test_input: Option<String>,
    /// Serve the HTTP API, on RunPod too.
    #[arg(long = "rp_serve_api")]
    serve_api: bool,
    /// Address to listen on: `localhost` or an IP address; not given: HOST.
    #[arg(long = "rp_api_host", value_name = "HOST", value_parser = config::listen_address)]
    api_host: Option<IpAddr>,
    /// Port to listen on; not given: 8000 where the API is served by flag, else PORT.
    #[arg(long = "rp_api_port", value_name = "PORT")]
    api_port: Option<u16>,
    /// What is logged: ERROR, WARN, INFO or DEBUG.
    #[arg(long = "rp_log_level", value_name = "LEVEL", value_parser = config::sdk_log_filter)]
    log_filter: Option<String>,
    /// Has no effect: any number of requests is served at once.
    #[arg(long = "rp_api_concurrency", value_name = "NUMBER")]
    api_concurrency: Option<u32>,
    /// Has no effect.
    #[arg(long = "rp_debugger")]
    debugger: bool,
}

impl SdkArguments {
    /// The command that the flags stand for, if they do, or what is wrong with them.
    pub(super) fn command(&mut self) -> Result<Option<Command>, String> {
        let Some(text) = self.test_input.take() else {
            return Ok(None);
        };
        // The text is not repeated: it may hold images.
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&text) {
            return Err(format!(
                "--test_input is no JSON ({error}); it takes a request such as '{{\"input\": {{\"prompt\": \"a red fox\"}}}}'"
            ));
        }
        Ok(Some(Command::Work(Work::Run {
            file: "--test_input".into(),
            text: Some(text),
            out: OUT.into(),
        })))
    }

    /// Lets the flags override the environment.
    pub(super) fn apply(&self, config: &mut Config) {
        if self.serve_api {
            config.platform.serve_api_locally = true;
            config.http.port = API_PORT;
        }
        if let Some(port) = self.api_port {
            config.http.port = port;
        }
        if let Some(host) = self.api_host {
            config.http.host = host;
        }
        if let Some(filter) = &self.log_filter {
            config.platform.log_filter.clone_from(filter);
            config.platform.log_filter_chosen = true;
        }
    }

    /// Says which flags were given for nothing.
    pub(super) fn warn(&self) {
        let flags = [
            ("--rp_debugger", self.debugger),
            ("--rp_api_concurrency", self.api_concurrency.is_some()),
        ];
        for (flag, _) in flags.iter().filter(|(_, given)| *given) {
            tracing::warn!("{flag} has no effect here");
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::Arguments;
    use super::*;

    fn parsed(flags: &[&str]) -> SdkArguments {
        Arguments::try_parse_from(["qwen-image-worker"].iter().chain(flags))
            .unwrap()
            .sdk
    }

    fn config(flags: &[&str]) -> Config {
        let vars = [("HOME", "/home/somebody"), ("HOST", "0.0.0.0"), ("PORT", "9")];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut config = Config::from_vars(vars).unwrap();
        parsed(flags).apply(&mut config);
        config
    }

    #[test]
    fn the_flags_override_the_environment_and_leave_the_rest() {
        let untouched = config(&[]);
        assert_eq!(
            (untouched.http.host.to_string().as_str(), untouched.http.port),
            ("0.0.0.0", 9)
        );
        let served = config(&["--rp_serve_api"]);
        assert_eq!(
            (served.http.host.to_string().as_str(), served.http.port),
            ("0.0.0.0", 8000)
        );
        assert!(served.platform.serve_api_locally);
        let all = config(&["--rp_api_host=localhost", "--rp_api_port=7", "--rp_log_level", "warn"]);
        assert_eq!((all.http.host.to_string().as_str(), all.http.port), ("127.0.0.1", 7));
        assert_eq!(all.platform.log_filter, "WARN");
        assert!(!all.platform.serve_api_locally);
    }

    #[test]
    fn a_test_input_is_a_job_and_no_flag_is_no_command() {
        assert!(matches!(parsed(&[]).command(), Ok(None)));
        let run = parsed(&["--test_input", "{\"input\": {}}"]).command();
        assert!(
            matches!(run, Ok(Some(Command::Work(Work::Run { text: Some(text), .. }))) if text == "{\"input\": {}}")
        );
        let error = parsed(&["--test_input", "{'input': {}}"]).command().unwrap_err();
        assert!(
            error.contains("line 1 column 2") && !error.contains("'input'"),
            "{error}"
        );
    }

    #[test]
    fn they_go_with_no_command() {
        for wrong in [
            &["--rp_serve_api", "setup"][..],
            &["--rp_serve_api", "--test_input", "{}"],
            &["--rp_log_level", "LOUD"],
            &["--rp_api_host", "example.com"],
        ] {
            let parsed = Arguments::try_parse_from(["qwen-image-worker"].iter().chain(wrong));
            assert_eq!(parsed.unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }
}
