//! Signatures of webhooks, as Standard Webhooks fixes them (standardwebhooks.com, the symmetric scheme `v1`).

use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::config::SigningKey;
use crate::encoding::STANDARD;

/// The value of `webhook-signature`: for each key `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, with
/// spaces between them; a receiver takes the webhook when one of them is right. [`None`]: there is no key.
/// `timestamp` is in seconds since 1970.
pub fn signatures(keys: &[SigningKey], id: &str, timestamp: u64, body: &[u8]) -> Option<String> {
    let signed: Vec<String> = keys
        .iter()
        // HMAC takes keys of any length: this never leaves one out.
        .filter_map(|key| Hmac::<Sha256>::new_from_slice(key.reveal()).ok())
        .map(|mut mac| {
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        })
        .collect();
    (!signed.is_empty()).then(|| signed.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_reference_library() {
        // From the tests of the reference libraries of standardwebhooks.com.
        let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(
            signatures(&[key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body).unwrap(),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn each_key_signs() {
        let keys: Vec<_> = ["whsec_aGVsbG8=", "plain text"]
            .map(|key| SigningKey::parse(key).unwrap())
            .into();
        let both = signatures(&keys, "id", 1, b"{}").unwrap();
        let oracle = |key: &[u8]| {
            let webhook = standardwebhooks::Webhook::from_bytes(key.to_vec()).unwrap();
            webhook.sign("id", 1, b"{}").unwrap()
        };
        assert_eq!(both, format!("{} {}", oracle(b"hello"), oracle(b"plain text")));
        assert_eq!(signatures(&[], "id", 1, b"{}"), None);
    }
}
