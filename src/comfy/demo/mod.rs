//! Demo weights: small random safetensors files that run the real Qwen-Image graphs on a CPU.
