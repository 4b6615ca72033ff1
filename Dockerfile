# syntax=docker/dockerfile:1
# The worker with ComfyUI for an NVIDIA GPU. Models are not in the image.
#
#   docker build -t qwen-image-worker .
#   docker run --gpus all -p 8188:8188 -v models:/comfyui/models qwen-image-worker

FROM rust:1.95-bookworm AS worker
WORKDIR /build
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
COPY src src
COPY workflows workflows
COPY benches benches
COPY tests tests
COPY docs docs
COPY README.md ./
RUN cargo build --release --locked --bin qwen-image-worker

FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04 AS comfyui
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY --from=worker /build/target/release/qwen-image-worker /usr/local/bin/
# The worker's own installer: the same pinned, hash-checked ComfyUI as everywhere else.
ENV COMFYUI_INSTALL_DIR=/opt/comfyui
RUN DEMO_WEIGHTS=false qwen-image-worker setup

FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git libgl1 libglib2.0-0 libgoogle-perftools4t64 python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=comfyui /opt/comfyui /opt/comfyui
RUN ln -s /opt/comfyui/*/ComfyUI /comfyui && ln -s /opt/comfyui/*/venv /opt/venv
COPY --from=worker /build/target/release/qwen-image-worker /usr/local/bin/
COPY start.sh /start.sh
ENV COMFYUI_DIR=/comfyui \
    COMFYUI_PYTHON=/opt/venv/bin/python \
    DATA_DIR=/var/lib/qwen-image-worker \
    HOST=0.0.0.0 \
    PORT=8188
EXPOSE 8188
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/${PORT}; printf 'GET /ping HTTP/1.0\\r\\n\\r\\n' >&3; head -n 1 <&3 | grep -q ' 20[04] '"]
ENTRYPOINT ["/start.sh"]
