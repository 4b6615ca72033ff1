//! A job's request as the store keeps it, and as a fleet's broker hands it on: JSON of our own, so that no dialect is needed to
//! run it after a restart, or elsewhere.

use base64::Engine as _;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::{
    AssetContent, Delivery, ImageContent, ImageName, InputImage, JobRequest, Origin, SavedRequest, TemplateRequest,
    Work,
};
use crate::config::Secret;
use crate::encoding::STANDARD;
use crate::error::JobError;
use crate::workflow::Graph;

/// `W` is the graph, `S` a workflow of the page: borrowed to be written, and a value when it is read, so that there is one of
/// it.
#[derive(Serialize, Deserialize)]
struct Payload<W, S> {
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    workflow: Option<W>,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    saved: Option<S>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    template: Option<TemplateRequest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    images: Vec<Image>,
    #[serde(default)]
    delivery: Delivery,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    org_api_key: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    extra_data: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Image {
    name: String,
    /// The image in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    /// Where it is, if it is not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<Url>,
    /// What was uploaded before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asset: Option<Box<AssetContent>>,
    /// Where in the request it stood, if not among the images.
    #[serde(default, skip_serializing_if = "is_usual")]
    origin: Origin,
}

fn is_usual(origin: &Origin) -> bool {
    *origin == Origin::Images
}

/// Writes a request down.
pub(crate) fn encode(request: &JobRequest) -> Result<Bytes, JobError> {
    let (workflow, saved, template) = match &request.work {
        Work::Workflow(graph) => (Some(graph), None, None),
        Work::Saved(saved) => (None, Some(saved), None),
        Work::Template(template) => (None, None, Some(template.clone())),
    };
    let images = request.images.iter().map(|image| {
        let (data, url, asset) = match &image.content {
            ImageContent::Here(content) => (Some(STANDARD.encode(content)), None, None),
            ImageContent::At(url) => (None, Some(url.clone()), None),
            ImageContent::Asset(asset) => (None, None, Some(asset.clone())),
        };
        Image {
            name: image.name.as_str().to_owned(),
            data,
            url,
            asset,
            origin: image.origin.clone(),
        }
    });
    let payload = Payload {
        workflow,
        saved,
        template,
        images: images.collect(),
        delivery: request.delivery.clone(),
        org_api_key: request.org_api_key.as_ref().map(|key| key.reveal().to_owned()),
        extra_data: request.extra_data.clone(),
        warnings: request.warnings.clone(),
    };
    Ok(serde_json::to_vec(&payload).map_err(broken)?.into())
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode(text: &[u8]) -> Result<JobRequest, JobError> {
    let payload: Payload<Value, SavedRequest> = serde_json::from_slice(text).map_err(broken)?;
    let work = match (payload.workflow, payload.saved, payload.template) {
        (Some(workflow), ..) => Work::Workflow(Graph::from_value(workflow)?),
        (None, Some(saved), _) => Work::Saved(saved),
        (None, None, Some(template)) => Work::Template(template),
        (None, None, None) => return Err(JobError::internal("the stored request holds no work")),
    };
    let images = payload.images.into_iter().map(|image| {
        let name = ImageName::parse(&image.name).map_err(JobError::internal)?;
        let content = match (image.url, image.asset) {
            (Some(url), _) => ImageContent::At(url),
            (None, Some(asset)) => ImageContent::Asset(asset),
            (None, None) => return InputImage::stored(name, &image.data.unwrap_or_default(), image.origin),
        };
        Ok(InputImage {
            name,
            content,
            origin: image.origin,
        })
    });
    Ok(JobRequest {
        work,
        images: images.collect::<Result<_, JobError>>()?,
        delivery: payload.delivery,
        org_api_key: payload.org_api_key.map(Secret::new),
        extra_data: payload.extra_data,
        warnings: payload.warnings,
    })
}

/// [`decode`], on a thread of its own: a large request takes a while.
pub(crate) async fn read(text: Bytes) -> Result<JobRequest, JobError> {
    let read = tokio::task::spawn_blocking(move || decode(&text)).await;
    read.unwrap_or_else(|error| {
        Err(JobError::internal(format!(
            "the stored request could not be read: {error}"
        )))
    })
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn broken(error: serde_json::Error) -> JobError {
    JobError::internal(format!("the stored request is not understood: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{BucketAccess, ImageFormat, ReturnImagesAs};
    use crate::workflow::{FileInput, Saved};

    const PIXEL: &str =
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

    /// As the first release stores it.
    const STORED_DELIVERY: &str = concat!(
        r#""delivery":{"return_images_as":"s3_url","output_format":"webp","quality":80,"max_bytes":20000000,"#,
        r#""safety_check":true,"picture_url":true,"bucket":{"endpoint":"https://s3.example.org/","access_key_id":"id","#,
        r#""secret_access_key":"key","name":"b","region":null}},"#,
    );

    fn image(name: &str, text: &str) -> InputImage {
        InputImage::from_text(ImageName::parse(name).unwrap(), text).unwrap()
    }

    #[test]
    fn a_request_comes_back_as_it_was() {
        let graph = Graph::parse(&json!({"9": {"class_type": "A", "inputs": {"z": 1.5, "a": ["3", 0]}}})).unwrap();
        let template = TemplateRequest {
            prompt: "a fox".into(),
            seed: Some(u64::MAX),
            ..TemplateRequest::default()
        };
        let saved = SavedRequest {
            workflow: Saved::from_value(json!({
                "version": 0.4,
                "nodes": [{"id": 3, "type": "A", "inputs": [], "outputs": [], "widgets_values": [1.5, "z"]}],
                "links": [],
            }))
            .unwrap(),
            inputs: Map::from_iter([("prompt".into(), json!("a fox"))]),
            seed: Some(u64::MAX),
        };
        for work in [Work::Workflow(graph), Work::Saved(saved), Work::Template(template)] {
            let request = JobRequest {
                work,
                images: vec![
                    image("x/y.png", PIXEL),
                    image("b", "https://storage.example.com/a.png?X-Amz-Signature=4711"),
                    image("c", "s3://pictures/a 100%.png"),
                    InputImage {
                        origin: Origin::Files,
                        ..image("d", PIXEL)
                    },
                    InputImage {
                        origin: Origin::Graph(Box::new(FileInput {
                            node: "1".to_owned(),
                            class: "LoadImage".to_owned(),
                            input: "image".to_owned(),
                        })),
                        ..image("e", "https://example.com/a.png")
                    },
                ],
                delivery: Delivery {
                    return_images_as: Some(ReturnImagesAs::S3Url),
                    output_format: Some(ImageFormat::Webp),
                    quality: Some(80),
                    max_bytes: Some(20_000_000),
                    picture_url: true,
                    safety_check: true,
                    return_workflow: false,
                    bucket: Some(BucketAccess {
                        endpoint: "https://s3.example.org".parse().unwrap(),
                        access_key_id: "id".into(),
                        secret_access_key: Secret::new("key"),
                        name: Some("b".into()),
                        region: None,
                    }),
                },
                org_api_key: Some(Secret::new("key")),
                extra_data: Map::from_iter([("preview_method".into(), "auto".into())]),
                warnings: vec!["mind the gap".into()],
            };
            let text = String::from_utf8(encode(&request).unwrap().to_vec()).unwrap();
            assert!(text.contains(STORED_DELIVERY), "{text}");
            let again = decode(text.as_bytes()).unwrap();
            assert_eq!(encode(&again).unwrap(), encode(&request).unwrap());
            assert_eq!(format!("{:?}", again.work), format!("{:?}", request.work));
            assert_eq!(again.images, request.images);
            assert_eq!(again.delivery, request.delivery);
            assert_eq!(again.org_api_key, request.org_api_key);
            assert_eq!(again.extra_data, request.extra_data);
        }
    }

    #[test]
    fn what_is_damaged_is_an_error() {
        assert!(decode(b"{}").is_err());
        assert!(decode(b"{\"workflow\": 7}").is_err());
        assert!(decode(b"rubbish").is_err());
    }
}
