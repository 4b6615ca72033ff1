use super::*;
use crate::config::Secret;

fn resolve(endpoint: &str, name: Option<&str>) -> Result<S3Endpoint, EndpointMistake> {
    S3Endpoint::resolve(&BucketAccess {
        endpoint: endpoint.parse().unwrap(),
        access_key_id: "id".to_owned(),
        secret_access_key: Secret::new("key"),
        name: name.map(str::to_owned),
        region: None,
    })
}

/// Endpoint, name; service, bucket, region, path style.
type Row = (
    &'static str,
    Option<&'static str>,
    &'static str,
    Option<&'static str>,
    &'static str,
    bool,
);

#[test]
fn the_forms_that_people_write() {
    let rows: &[Row] = &[
        // The service alone.
        (
            "https://s3.amazonaws.com",
            None,
            "https://s3.amazonaws.com/",
            None,
            "us-east-1",
            true,
        ),
        (
            "https://s3.eu-central-1.amazonaws.com",
            Some("b"),
            "https://s3.eu-central-1.amazonaws.com/",
            Some("b"),
            "eu-central-1",
            true,
        ),
        (
            "https://s3-eu-west-1.amazonaws.com/",
            Some("b"),
            "https://s3-eu-west-1.amazonaws.com/",
            Some("b"),
            "eu-west-1",
            true,
        ),
        (
            "https://s3.dualstack.us-west-2.amazonaws.com",
            None,
            "https://s3.dualstack.us-west-2.amazonaws.com/",
            None,
            "us-west-2",
            true,
        ),
        (
            "https://s3.cn-north-1.amazonaws.com.cn",
            None,
            "https://s3.cn-north-1.amazonaws.com.cn/",
            None,
            "cn-north-1",
            true,
        ),
        (
            "https://bucket.vpce-1a2b-3c.s3.us-east-2.vpce.amazonaws.com",
            Some("b"),
            "https://bucket.vpce-1a2b-3c.s3.us-east-2.vpce.amazonaws.com/",
            Some("b"),
            "us-east-2",
            true,
        ),
        (
            "https://4711.r2.cloudflarestorage.com",
            Some("b"),
            "https://4711.r2.cloudflarestorage.com/",
            Some("b"),
            "auto",
            true,
        ),
        (
            "https://4711.eu.r2.cloudflarestorage.com",
            Some("b"),
            "https://4711.eu.r2.cloudflarestorage.com/",
            Some("b"),
            "auto",
            true,
        ),
        (
            "https://storage.googleapis.com",
            Some("b"),
            "https://storage.googleapis.com/",
            Some("b"),
            "auto",
            true,
        ),
        (
            "https://s3.us-west-004.backblazeb2.com",
            Some("b"),
            "https://s3.us-west-004.backblazeb2.com/",
            Some("b"),
            "us-west-004",
            true,
        ),
        (
            "https://nyc3.digitaloceanspaces.com",
            Some("b"),
            "https://nyc3.digitaloceanspaces.com/",
            Some("b"),
            "nyc3",
            true,
        ),
        (
            "https://s3api-eu-ro-1.runpod.io",
            Some("b"),
            "https://s3api-eu-ro-1.runpod.io/",
            Some("b"),
            "eu-ro-1",
            true,
        ),
        (
            "https://s3.wasabisys.com",
            Some("b"),
            "https://s3.wasabisys.com/",
            Some("b"),
            "us-east-1",
            true,
        ),
        (
            "https://s3.eu-central-2.wasabisys.com",
            Some("b"),
            "https://s3.eu-central-2.wasabisys.com/",
            Some("b"),
            "eu-central-2",
            true,
        ),
        (
            "https://s3.fr-par.scw.cloud",
            Some("b"),
            "https://s3.fr-par.scw.cloud/",
            Some("b"),
            "fr-par",
            true,
        ),
        (
            "http://minio:9000",
            Some("minio"),
            "http://minio:9000/",
            Some("minio"),
            "us-east-1",
            true,
        ),
        (
            "http://10.0.0.7:9000",
            Some("10"),
            "http://10.0.0.7:9000/",
            Some("10"),
            "us-east-1",
            true,
        ),
        ("http://[::1]:9000", None, "http://[::1]:9000/", None, "us-east-1", true),
        (
            "https://project.example.com/storage/v1/s3",
            Some("b"),
            "https://project.example.com/storage/v1/s3",
            Some("b"),
            "us-east-1",
            true,
        ),
        // The bucket in the host.
        (
            "https://my-bucket.s3.us-east-1.amazonaws.com",
            None,
            "https://s3.us-east-1.amazonaws.com/",
            Some("my-bucket"),
            "us-east-1",
            false,
        ),
        (
            "https://my-bucket.s3.amazonaws.com",
            Some("my-bucket"),
            "https://s3.amazonaws.com/",
            Some("my-bucket"),
            "us-east-1",
            false,
        ),
        (
            "https://my.s3.bucket.s3.eu-west-3.amazonaws.com",
            None,
            "https://s3.eu-west-3.amazonaws.com/",
            Some("my.s3.bucket"),
            "eu-west-3",
            false,
        ),
        (
            "https://my-bucket.s3-accelerate.amazonaws.com",
            None,
            "https://s3-accelerate.amazonaws.com/",
            Some("my-bucket"),
            "us-east-1",
            false,
        ),
        (
            "https://my-bucket.nyc3.digitaloceanspaces.com",
            None,
            "https://nyc3.digitaloceanspaces.com/",
            Some("my-bucket"),
            "nyc3",
            false,
        ),
        (
            "https://my-bucket.storage.googleapis.com",
            None,
            "https://storage.googleapis.com/",
            Some("my-bucket"),
            "auto",
            false,
        ),
        (
            "https://my-bucket.s3.us-west-004.backblazeb2.com",
            None,
            "https://s3.us-west-004.backblazeb2.com/",
            Some("my-bucket"),
            "us-west-004",
            false,
        ),
        (
            "https://my-bucket.4711.r2.cloudflarestorage.com",
            None,
            "https://4711.r2.cloudflarestorage.com/",
            Some("my-bucket"),
            "auto",
            false,
        ),
        (
            "https://my-bucket.4711.eu.r2.cloudflarestorage.com",
            None,
            "https://4711.eu.r2.cloudflarestorage.com/",
            Some("my-bucket"),
            "auto",
            false,
        ),
        (
            "https://my-bucket.storage.example.com:8443",
            Some("my-bucket"),
            "https://storage.example.com:8443/",
            Some("my-bucket"),
            "us-east-1",
            false,
        ),
        // The bucket in the path.
        (
            "https://4711.r2.cloudflarestorage.com/my-bucket",
            None,
            "https://4711.r2.cloudflarestorage.com/",
            Some("my-bucket"),
            "auto",
            true,
        ),
        (
            "https://minio/bucket/",
            None,
            "https://minio/",
            Some("bucket"),
            "us-east-1",
            true,
        ),
        (
            "https://minio/bucket/",
            Some("bucket"),
            "https://minio/",
            Some("bucket"),
            "us-east-1",
            true,
        ),
        (
            "https://example.com/storage/s3/b",
            Some("b"),
            "https://example.com/storage/s3",
            Some("b"),
            "us-east-1",
            true,
        ),
    ];
    for (endpoint, name, service, bucket, region, path_style) in rows {
        let expected = S3Endpoint {
            service: service.parse().unwrap(),
            bucket: bucket.map(str::to_owned),
            region: (*region).to_owned(),
            path_style: *path_style,
        };
        assert_eq!(resolve(endpoint, *name), Ok(expected), "{endpoint}");
    }
}

#[test]
fn a_region_that_is_given_is_taken() {
    let access = BucketAccess {
        endpoint: "https://s3.eu-central-1.amazonaws.com".parse().unwrap(),
        access_key_id: "id".to_owned(),
        secret_access_key: Secret::new("key"),
        name: None,
        region: Some("moon-1".to_owned()),
    };
    assert_eq!(S3Endpoint::resolve(&access).unwrap().region, "moon-1");
}

#[test]
fn what_contradicts_itself_is_a_mistake() {
    let mistakes: Vec<String> = [
        ("https://my-bucket.s3.us-east-1.amazonaws.com", Some("other")),
        ("https://minio/bucket", Some("other")),
        ("https://my-bucket.s3.us-east-1.amazonaws.com/folder", None),
        ("https://minio/a/b", None),
        ("https://key:secret@minio", Some("b")),
        ("https://minio/?a=b", Some("b")),
        ("ftp://minio", Some("b")),
        ("https://minio", Some("../b")),
        ("https://minio", Some("arn:aws:s3:us-east-1:4711:accesspoint/b")),
    ]
    .into_iter()
    .map(|(endpoint, name)| resolve(endpoint, name).unwrap_err().to_string())
    .collect();
    insta::assert_snapshot!(mistakes.join("\n"), @"
    the endpoint my-bucket.s3.us-east-1.amazonaws.com names the bucket `my-bucket`, but the bucket's name is given as `other`; leave one of them out
    the endpoint minio names the bucket `bucket`, but the bucket's name is given as `other`; leave one of them out
    the endpoint my-bucket.s3.us-east-1.amazonaws.com has the bucket `my-bucket` in its host and a path as well; leave the path out
    the endpoint minio has a path of several parts, of which none is known as the bucket; name the bucket
    the bucket's endpoint minio has a user name, a query or a fragment; leave them out
    the bucket's endpoint minio has a user name, a query or a fragment; leave them out
    the bucket's endpoint is no http or https URL with a host; write it as https://s3.us-east-1.amazonaws.com
    `../b` is no name of a bucket; it has letters, digits, hyphens, dots and underscores, at most 255
    `arn:aws:s3:us-east-1:4711:accesspoint/b` is no name of a bucket; it has letters, digits, hyphens, dots and underscores, at most 255
    ");
}
