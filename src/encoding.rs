//! Base64 of the standard alphabet (RFC 4648, section 4), by the fastest instructions that the processor has: pictures of
//! several megabytes are most of what a worker encodes.

use std::sync::LazyLock;

use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurposeConfig, PAD};

/// What encodes, chosen at run time.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
type Fastest = base64::engine::simd::Simd;
/// What encodes on processors for which there is nothing faster.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
type Fastest = base64::engine::GeneralPurpose;

/// As it should be: with padding.
pub(crate) static STANDARD: LazyLock<Fastest> = LazyLock::new(|| fastest(PAD));

/// As people send it: with or without padding.
pub(crate) static LENIENT: LazyLock<Fastest> =
    LazyLock::new(|| fastest(PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent)));

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn fastest(config: GeneralPurposeConfig) -> Fastest {
    Fastest::standard(config)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn fastest(config: GeneralPurposeConfig) -> Fastest {
    Fastest::new(&base64::alphabet::STANDARD, config)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    #[test]
    fn it_is_the_base64_of_everybody() {
        // Long enough for every way of doing it, and of every length modulo three.
        for length in [0, 1, 2, 3, 200, 201, 202] {
            let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            let text = base64::engine::general_purpose::STANDARD.encode(&bytes);
            assert_eq!(STANDARD.encode(&bytes), text);
            assert_eq!(STANDARD.decode(&text).as_ref(), Ok(&bytes));
            assert_eq!(LENIENT.decode(text.trim_end_matches('=')), Ok(bytes));
        }
        assert!(STANDARD.decode("QQ").is_err());
        assert!(LENIENT.decode("Q").is_err());
        assert!(LENIENT.decode("QUJ-").is_err());
    }
}
