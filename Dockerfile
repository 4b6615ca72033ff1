# The worker, and ComfyUI for an NVIDIA GPU. Models are not in the image.
#
#   docker build -t qwen-image-worker .
#   docker run --gpus all -p 8188:8188 -p 8189:8189 -v "$PWD/models:/workspace/models" qwen-image-worker
#
# With another ComfyUI, and with custom nodes (docs/comfyui.md, docs/custom-nodes.md):
#
#   docker build --build-arg COMFYUI_VERSION=v0.46.0 --build-arg CUSTOM_NODES=comfyui-kjnodes@1.1.7 -t my-worker .
#
# Without a GPU, `docker run -p 8188:8188 qwen-image-worker` runs demo weights on the CPU. Nothing here needs BuildKit.

# Debian 12, whose glibc (2.36) is older than that of Ubuntu 24.04 (2.39), where the binary will run. It has the C compiler
# for SQLite, libwebp and aws-lc. The version is that of rust-toolchain.toml, which is left out: rustup would fetch
# clippy and rustfmt for it.
FROM rust:1.95.0-bookworm AS worker
WORKDIR /build
COPY Cargo.toml Cargo.lock build.rs ./
# cargo wants to see a file for each target that Cargo.toml names.
COPY benches/*.rs benches/
COPY tests/it/main.rs tests/it/
COPY workflows workflows
COPY src src
RUN cargo build --release --locked --bin qwen-image-worker

# The smallest of NVIDIA's CUDA images: torch brings its own CUDA 12.8, cuDNN and NCCL, so those of the larger ones would lie
# there twice. What counts is what the image asks the driver for (NVIDIA_REQUIRE_CUDA), and libcuda's compatibility files.
FROM nvidia/cuda:12.8.1-base-ubuntu24.04 AS base
# git and python3-venv are for the worker's installer: for other versions of ComfyUI and custom nodes, at the start or in an
# image made from this one. Ubuntu's archive keeps no old versions, so that pinned ones would soon not be found.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM base AS comfyui
# The compiler is for packages of custom nodes that have no wheels.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential python3-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=worker /build/target/release/qwen-image-worker /usr/local/bin/
ARG COMFYUI_VERSION
ARG COMFYUI_REPOSITORY
ARG TORCH_INDEX_URL
# The worker's own installer: the same pinned, hash-checked ComfyUI as everywhere else. It ends with a first start of
# ComfyUI on the CPU, which leaves Python's bytecode for the later ones.
RUN COMFYUI_INSTALL_DIR=/opt/comfyui DEMO_WEIGHTS=false qwen-image-worker setup
ARG CUSTOM_NODES
ARG CUSTOM_NODES_ALLOW_FLOATING
ARG CUSTOM_NODES_RUN_INSTALL
RUN mkdir /opt/custom-nodes \
    && if [ -n "$CUSTOM_NODES" ]; then \
      COMFYUI_INSTALL_DIR=/opt/comfyui CUSTOM_NODES_DIR=/opt/custom-nodes qwen-image-worker nodes install; \
    fi

FROM base
# tcmalloc for the worker to preload; OpenGL and GLib for the many custom nodes that use OpenCV; tini takes processes off
# the table whose parents are gone. The empty list of custom nodes is for images made from this one, which put theirs over it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0t64 libgoogle-perftools4t64 tini \
    && rm -rf /var/lib/apt/lists/* \
    && touch /custom-nodes.toml
# At the same places: a virtual environment cannot be moved.
COPY --from=comfyui /opt/comfyui /opt/comfyui
COPY --from=comfyui /opt/custom-nodes /opt/custom-nodes
COPY --from=worker /build/target/release/qwen-image-worker /usr/local/bin/
COPY start.sh handler.py /
# What was built in is what is started.
ARG COMFYUI_VERSION
ARG COMFYUI_REPOSITORY
ARG TORCH_INDEX_URL
ARG CUSTOM_NODES
ARG CUSTOM_NODES_ALLOW_FLOATING
ARG CUSTOM_NODES_RUN_INSTALL
# Jobs, results and ComfyUI's own folders are on the container's disk: a network volume is shared by workers.
ENV COMFYUI_INSTALL_DIR=/opt/comfyui \
    COMFYUI_VERSION=$COMFYUI_VERSION \
    COMFYUI_REPOSITORY=$COMFYUI_REPOSITORY \
    TORCH_INDEX_URL=$TORCH_INDEX_URL \
    CUSTOM_NODES=$CUSTOM_NODES \
    CUSTOM_NODES_ALLOW_FLOATING=$CUSTOM_NODES_ALLOW_FLOATING \
    CUSTOM_NODES_DIR=/opt/custom-nodes \
    CUSTOM_NODES_MANIFEST=/custom-nodes.toml \
    CUSTOM_NODES_RUN_INSTALL=$CUSTOM_NODES_RUN_INSTALL \
    DATA_DIR=/var/lib/qwen-image-worker \
    HOST=0.0.0.0 \
    PORT=8188
# It runs as root, as RunPod's volumes and those that Docker makes belong to root.
EXPOSE 8188 8189
STOPSIGNAL SIGTERM
# Healthy once jobs can run. RunPod does not look at it; a load-balancing endpoint asks /ping itself.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20m \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/${PORT_HEALTH:-$PORT} && printf 'GET %s HTTP/1.0\\r\\n\\r\\n' \"${HEALTH_CHECK_PATH:-/ping}\" >&3 && head -n 1 <&3 | grep -q ' 200 ' || exit 1"]
# As process 1 the worker would inherit whatever custom nodes leave behind, and wait for none of it.
ENTRYPOINT ["/usr/bin/tini", "--", "/start.sh"]
