//! What is refused, with the field at fault.

use super::*;

#[test]
fn what_is_wrong_is_refused_with_its_field() {
    let seventeen = vec![PIXEL; 17];
    for (operation, body, field, message) in [
        (Operation::Generate, json!({}), "prompt", "is empty"),
        (
            Operation::Generate,
            json!({"prompt": 7}),
            "prompt",
            "must be a string, not 7",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "n": 0}),
            "n",
            "from 1 to 10, not 0",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "n": "two"}),
            "n",
            "not \"two\"",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "seed": -2}),
            "seed",
            "not -2",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "size": "big"}),
            "size",
            "`big` is no size",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "size": "8x8"}),
            "size",
            "from 16 to 16384",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "size": "16384x16384"}),
            "size",
            "megapixels",
        ),
        (
            Operation::Edit,
            json!({"prompt": "p", "image": PIXEL, "size": "128x1024"}),
            "size",
            "from 256 to 1536",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "quality": "best"}),
            "quality",
            "must be one of auto, low",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "response_format": "png"}),
            "response_format",
            "url or b64_json",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "output_format": "gif"}),
            "output_format",
            "webp",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "output_compression": 101}),
            "output_compression",
            "from 0 to 100",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "background": "transparent"}),
            "background",
            "opaque pictures",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "partial_images": 4}),
            "partial_images",
            "0 to 3",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "stream": "yes"}),
            "stream",
            "true or false",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "steps": 0}),
            "steps",
            "from 1",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "guidance_scale": 101}),
            "guidance_scale",
            "to 100",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "model": "sdxl"}),
            "model",
            "`sdxl` does not exist",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "model": "Qwen/Qwen-Image-Edit"}),
            "image",
            "`image` is missing",
        ),
        (
            Operation::Edit,
            json!({"prompt": "p", "model": "Qwen/Qwen-Image", "image": PIXEL}),
            "model",
            "takes no image",
        ),
        (Operation::Edit, json!({"prompt": "p"}), "image", "is missing"),
        (Operation::Vary, json!({}), "image", "is missing"),
        (
            Operation::Edit,
            json!({"prompt": "p", "image": 7}),
            "image",
            "Invalid request: image: must be a URL",
        ),
        (
            Operation::Edit,
            json!({"prompt": "p", "image": {"file_id": "x"}}),
            "image",
            "file_id",
        ),
        (
            Operation::Edit,
            json!({"prompt": "p", "image": "aGVsbG8="}),
            "image",
            "is no image",
        ),
        (
            Operation::Edit,
            json!({"prompt": "p", "image": seventeen}),
            "image",
            "takes 3 at most, and the request has 17",
        ),
        (
            Operation::Edit,
            json!({"prompt": "p", "image": [PIXEL, PIXEL], "model": "Qwen/Qwen-Image-Edit"}),
            "image",
            "takes 1 at most, and the request has 2",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "mask": PIXEL}),
            "mask",
            "needs an image",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "image_url": "https://example.com/a.png"}),
            "image_url",
            "no field of this API takes",
        ),
        (
            Operation::Generate,
            json!({"prompt": "p", "aspect_ratio": "16:9"}),
            "aspect_ratio",
            "send `size`",
        ),
        (
            Operation::Edit,
            json!({"prompt": "p", "image": PIXEL, "mask": [PIXEL, PIXEL]}),
            "mask",
            "more than one",
        ),
    ] {
        let error = asked(operation, &body).expect_err(&body.to_string());
        assert_eq!(error.field.as_deref(), Some(field), "{body}: {}", error.full_text());
        assert!(error.full_text().contains(message), "{body}: {}", error.full_text());
    }
}

#[test]
fn what_is_no_object_is_refused() {
    for body in ["", "nonsense", "[]", "7", "\"p\""] {
        let error = parse(Operation::Generate, Body::Json(Bytes::from(body)), OPTIONS).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidRequest, "{body}");
    }
}
