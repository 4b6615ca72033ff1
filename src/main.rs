//! `qwen-image-worker`: parse, run one command, map the result to an exit code.

/// Gives memory back that a large request needed; glibc's keeps most of it for good.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    qwen_image_worker::cli::main()
}
