//! What only signed requests show, with the SDK as the client.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumAlgorithm;

use super::{Fixture, NO_HEADERS, key};
use crate::ModelOptions;
use crate::serve::{Credentials, ServeOptions};
use crate::wall_clock;

async fn locked() -> Fixture {
    let mut options = ServeOptions::new("bucket");
    options.credentials = Some(Credentials {
        access_key: "AKID".to_owned(),
        secret_key: "a secret".to_owned(),
    });
    // The SDK corrects its clock by the dates of answers, and signatures are checked against this machine's.
    let model = ModelOptions {
        clock: wall_clock(),
        ..ModelOptions::default()
    };
    Fixture::with(model, options).await
}

fn client(fixture: &Fixture, access_key: &str, secret_key: &str) -> Client {
    let keys = aws_sdk_s3::config::Credentials::new(access_key, secret_key, None, None, "test");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(fixture.server.endpoint())
        .force_path_style(true)
        .credentials_provider(keys)
        .build();
    Client::from_conf(config)
}

#[tokio::test]
async fn only_those_with_the_keys_are_served() {
    let fixture = locked().await;
    assert_eq!(fixture.put("/bucket/a", NO_HEADERS, "x").await.status, 403);
    for (access_key, secret_key, code) in [
        ("AKID", "another secret", "SignatureDoesNotMatch"),
        ("OTHER", "a secret", "InvalidAccessKeyId"),
    ] {
        let client = client(&fixture, access_key, secret_key);
        let body = ByteStream::from_static(b"x");
        let put = client.put_object().bucket("bucket").key("a").body(body);
        let error = put.send().await.expect_err("refused").into_service_error();
        assert_eq!(error.meta().code(), Some(code));
    }
    assert!(fixture.model.objects().is_empty());
}

#[tokio::test]
async fn chunked_bodies_with_checksums_in_trailers_are_stored_as_they_are() {
    let fixture = locked().await;
    let client = client(&fixture, "AKID", "a secret");
    for algorithm in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
        ChecksumAlgorithm::Crc64Nvme,
    ] {
        let name = algorithm.as_str().to_owned();
        let content = vec![7; 300_000];
        let put = client.put_object().bucket("bucket").key(&name);
        let put = put
            .checksum_algorithm(algorithm)
            .if_none_match("*")
            .metadata("kind", "chunk")
            .body(ByteStream::from(content.clone()));
        put.send().await.expect("stored");
        let object = fixture.model.object(&key(&name)).expect("an object");
        assert!(object.body.into_bytes() == content[..], "{name}");
        assert_eq!(object.meta.metadata["kind"], "chunk");
        let get = client.get_object().bucket("bucket").key(&name);
        let read = get.send().await.expect("read").body.collect().await;
        assert!(read.expect("content").into_bytes() == content[..]);
    }
    let list = client.list_objects_v2().bucket("bucket").send().await;
    assert_eq!(list.expect("a listing").key_count(), Some(5));
}

#[tokio::test]
async fn the_sdk_deletes_and_copies() {
    use aws_sdk_s3::types::{Delete, ObjectIdentifier};
    let fixture = locked().await;
    let client = client(&fixture, "AKID", "a secret");
    let odd = "ü +%&";
    let body = ByteStream::from_static(b"x");
    let put = client.put_object().bucket("bucket").key(odd).body(body);
    put.send().await.expect("stored");
    let copy = client.copy_object().bucket("bucket").key("copy");
    let copy = copy.copy_source("bucket/%C3%BC%20%2B%25%26").send().await;
    copy.expect("copied");
    let objects = [odd, "copy", "absent"].map(|name| {
        let object = ObjectIdentifier::builder().key(name).build();
        object.expect("it has a key")
    });
    let delete = Delete::builder().set_objects(Some(objects.into())).build();
    let deleted = client
        .delete_objects()
        .bucket("bucket")
        .delete(delete.expect("it has objects"))
        .send()
        .await
        .expect("deleted");
    assert_eq!((deleted.deleted().len(), deleted.errors().len()), (3, 0));
    assert!(fixture.model.objects().is_empty());
}
