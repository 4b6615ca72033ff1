//! Results that are too large for the platform.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Endpoint, noise, quick};
use crate::support::platform::Route;
use crate::support::text;

/// The side of the picture, in pixels.
const SIDE: usize = 512;
/// What the platform takes, in bytes: less than the picture as it is, more than it as a good JPEG.
const MOST: usize = 500_000;

/// The one picture of a result, whatever it was made into.
#[track_caller]
fn picture(result: &Value) -> Vec<u8> {
    let image = &result["output"]["images"][0];
    assert_eq!(image["type"], "base64", "{:.300}", result.to_string());
    let picture = STANDARD.decode(text(image, "data")).expect("base64");
    let size = imagesize::blob_size(&picture).expect("a picture");
    assert!(size.width > 0 && size.height > 0);
    picture
}

#[tokio::test]
async fn a_result_that_the_platform_refuses_is_made_smaller() {
    for (status, seed) in [(413, 7_600), (400, 7_601)] {
        let endpoint = Endpoint::start().await;
        let _worker = endpoint.worker(&[]);
        endpoint.platform.refuse_over(MOST, status);
        endpoint.platform.queue("large", &noise(SIDE, seed));
        let result = endpoint.platform.result("large").await;
        picture(&result);
        let finals = endpoint.platform.finals("large");
        let (last, refused) = finals.split_last().expect("posts");
        assert!(last.length <= MOST, "{finals:#?}");
        assert!(
            !refused.is_empty() && refused.iter().all(|call| call.length > MOST),
            "{finals:#?}"
        );
        let said = result["output"]["warnings"].to_string();
        assert!(said.contains("were made into"), "{said}");
        endpoint.platform.settled();
    }
}

#[tokio::test]
async fn a_limit_that_is_known_is_kept_at_once() {
    let endpoint = Endpoint::start().await;
    let most = MOST.to_string();
    let _worker = endpoint.worker(&[("RESULT_MAX_BYTES", &most)]);
    endpoint.platform.queue("large", &noise(SIDE, 7_610));
    picture(&endpoint.platform.result("large").await);
    let finals = endpoint.platform.finals("large");
    assert_eq!(finals.len(), 1, "{finals:#?}");
    assert!(finals[0].length <= MOST, "{finals:#?}");
    endpoint.platform.settled();
}

/// Nothing can be done, so that is said, and the worker goes on.
#[tokio::test]
async fn a_result_that_cannot_be_made_small_enough_is_an_error_that_says_so() {
    let endpoint = Endpoint::start().await;
    let _worker = endpoint.worker(&[]);
    endpoint.platform.refuse_over(2_000, 413);
    endpoint.platform.queue("large", &noise(SIDE, 7_620));
    let result = endpoint.platform.result("large").await;
    let error = text(&result, "error");
    assert!(error.contains("large") || error.contains("bytes"), "{result:#}");
    endpoint.platform.refuse_over(1_000_000, 413);
    endpoint.platform.queue("small", &quick(7_621));
    endpoint.one_picture(&endpoint.platform.result("small").await);
    assert_eq!(endpoint.platform.calls(Route::Take)[0].head.method, "GET");
    endpoint.platform.settled();
}
