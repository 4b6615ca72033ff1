//! Buckets that requests name, on the same server.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::testing::{BUCKET, Server};
use super::tests::in_memory;
use super::*;
use crate::config::PrivateUrls;
use crate::error::{ErrorKind, JobError};

/// Answers names from a table; each list in turn, the last one for ever.
struct Names(Mutex<HashMap<&'static str, Vec<&'static str>>>);

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let mut names = self.0.lock().unwrap();
        let found = names.get_mut(name.as_str()).map(|found| {
            let next = if found.len() > 1 { found.remove(0) } else { found[0] };
            SocketAddr::new(next.parse().unwrap(), 0)
        });
        Box::pin(async move {
            let found = found.ok_or("no such name")?;
            Ok(Box::new([found].into_iter()) as Addrs)
        })
    }
}

fn guard(allowed: PrivateUrls, names: &[(&'static str, &[&'static str])]) -> AddressGuard {
    let names = names.iter().map(|(name, found)| (*name, found.to_vec())).collect();
    AddressGuard::with_lookup(allowed, Arc::new(Names(Mutex::new(names))))
}

#[tokio::test]
async fn a_request_names_a_bucket_in_a_host_that_the_guard_looks_up() {
    let server = Server::start().await;
    let mut config = server.config();
    config.access.endpoint = format!("http://results.storage.example.com:{}", server.port)
        .parse()
        .unwrap();
    let guard = guard(PrivateUrls::All, &[("results.storage.example.com", &["127.0.0.1"])]);
    let bucket = Bucket::of_request(&config.access, None, &guard).unwrap();
    let urls = bucket.upload("job-1", vec![in_memory("a.png", "x")]).await.unwrap();
    let begin = format!("http://{BUCKET}.storage.example.com:{}/job-1/a.png?", server.port);
    assert!(urls[0].starts_with(&begin), "{}", urls[0]);
    let client = reqwest::Client::builder()
        .no_proxy()
        .resolve("results.storage.example.com", ([127, 0, 0, 1], server.port).into())
        .build()
        .unwrap();
    assert_eq!(client.get(&urls[0]).send().await.unwrap().text().await.unwrap(), "x");
}

#[tokio::test]
async fn a_request_s_endpoint_within_the_network_is_refused() {
    let server = Server::start().await;
    let mut access = server.config().access;
    let error = Bucket::of_request(&access, None, &guard(PrivateUrls::None, &[])).unwrap_err();
    assert!(matches!(error, BucketError::Refused { .. }), "{error:?}");
    assert_eq!(JobError::from(error).kind, ErrorKind::InvalidRequest);

    access.endpoint = format!("http://storage.example.com:{}", server.port).parse().unwrap();
    for names in [
        &["127.0.0.1"][..],
        // The name is public when it is judged, and leads elsewhere when it is dialled.
        &["198.41.0.4", "127.0.0.1"],
    ] {
        let guard = guard(PrivateUrls::None, &[("storage.example.com", names)]);
        let bucket = Bucket::of_request(&access, None, &guard).unwrap();
        let error = bucket.upload("job-1", vec![in_memory("a.png", "x")]).await.unwrap_err();
        assert!(matches!(error, BucketError::Refused { .. }), "{error:?}");
        assert_eq!(JobError::from(error).kind, ErrorKind::InvalidRequest);
    }
    assert_eq!(server.came(), Vec::<String>::new());
}

#[tokio::test]
async fn a_request_takes_prefix_and_expiry_from_the_configuration_but_no_public_address() {
    let server = Server::start().await;
    let config = BucketConfig {
        prefix: "x/{filename}".to_owned(),
        url_expiry: Duration::from_mins(1),
        public_url: Some("https://cdn.example.com".parse().unwrap()),
        ..server.config()
    };
    let guard = guard(PrivateUrls::All, &[]);
    let bucket = Bucket::of_request(&config.access, Some(&Bucket::new(&config).unwrap()), &guard).unwrap();
    let urls = bucket.upload("job-1", vec![in_memory("a.png", "x")]).await.unwrap();
    assert!(
        urls[0].contains("/results/x/a.png?") && urls[0].contains("X-Amz-Expires=60&"),
        "{}",
        urls[0]
    );
}

/// Its clock jumps from one wait to the next.
#[tokio::test(start_paused = true)]
async fn a_request_s_bucket_that_never_answers_is_given_up_soon() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let access = crate::config::BucketAccess {
        endpoint: format!("http://{}", silent.local_addr().unwrap()).parse().unwrap(),
        access_key_id: "AKIA4711".to_owned(),
        secret_access_key: crate::config::Secret::new("secret-0815"),
        name: Some("results".to_owned()),
        region: None,
    };
    let bucket = Bucket::of_request(&access, None, &guard(PrivateUrls::All, &[])).unwrap();
    let began = tokio::time::Instant::now();
    let uploads = (0..10).map(|number| in_memory(&format!("{number}.png"), "x")).collect();
    let error = bucket.upload("job-1", uploads).await.unwrap_err();
    assert!(matches!(error, BucketError::Unreachable { .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    drop(silent);
}

#[tokio::test]
async fn a_request_s_endpoint_is_judged_by_its_name_before_anything_is_uploaded() {
    let mut config = Server::start().await.config();
    config.access.endpoint = "https://inside.example.com".parse().unwrap();
    let names: &[(&'static str, &[&'static str])] = &[("inside.example.com", &["10.0.0.1"])];
    let check = async |allowed| Bucket::check_of_request(&config.access, &guard(allowed, names)).await;
    let error = check(PrivateUrls::None).await.unwrap_err();
    assert!(matches!(error, BucketError::Refused { .. }), "{error:?}");
    assert_eq!(JobError::from(error).kind, ErrorKind::InvalidRequest);
    check(PrivateUrls::All).await.unwrap();
    config.access.endpoint = "https://nowhere.example.com".parse().unwrap();
    Bucket::check_of_request(&config.access, &guard(PrivateUrls::None, names))
        .await
        .unwrap();
}
