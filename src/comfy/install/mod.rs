//! Installs a managed ComfyUI when nobody gave one.
