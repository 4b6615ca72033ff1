//! `qwen-image-worker`: parse, run one command, map the result to an exit code.

fn main() -> std::process::ExitCode {
    qwen_image_worker::cli::main()
}
