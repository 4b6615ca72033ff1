//! The supervisor of the ComfyUI process.
