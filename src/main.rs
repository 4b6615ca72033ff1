//! `qwen-image-worker`: parse, run one command, map the result to an exit code.

fn main() {}
