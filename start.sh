#!/usr/bin/env bash
# The image's entrypoint and the newcomer's command: builds the worker if there is none, then becomes it.
#
#   ./start.sh run test_input.json     one job: installs ComfyUI if there is none, writes the image to out/
#   ./start.sh                         the HTTP API on port 8188
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

# In the image the binary is on the PATH and there is nothing to build.
if [ ! -f "$here/Cargo.toml" ]; then
  exec qwen-image-worker "$@"
fi

if ! command -v cargo >/dev/null; then
  echo "error: cargo is missing; install Rust from https://rustup.rs and run this again" >&2
  exit 1
fi
# Costs a moment when everything is built. Standard output stays free for the result.
cargo build --release --locked --manifest-path "$here/Cargo.toml" >&2
exec "${CARGO_TARGET_DIR:-$here/target}/release/qwen-image-worker" "$@"
