//! The one test binary: the whole worker against real parts.
