//! What concerns an S3 server rather than one of its buckets: which buckets there are, and a new one.
//!
//! [`AwsEndpoint::create_bucket`] touches nothing that is there:
//! 1. it looks whether the bucket is: among those of the keys' owner, or, where these may not be listed, by asking for it;
//! 2. makes it, in the region that requests are signed for;
//! 3. looks again if the answer was lost.
//!
//! A server refuses to make a bucket that somebody else has, so one that comes between 1 and 2 is refused, or is the same owner's. (Without 1 Amazon's
//! `us-east-1` would call it a success to make an own bucket again, and set its access list back.) A crash after 2 leaves an empty bucket, which the next call
//! finds. Nothing is tried twice: whoever asked is there to ask again.

use std::sync::Arc;

use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};

use super::answer::{Asked, Failure, failure};
use super::ask::Ask;
use super::config::AwsConfig;
use super::settings::has_code;
use super::{AwsStore, WallClock, client};
use crate::connector::Tcp;
use crate::{Error, ErrorKind, ObjectStore as _, Op};

/// The region that is not named where a bucket is made.
const FIRST_REGION: &str = "us-east-1";
/// Pages of a list of buckets; a server may put 10,000 on each.
const PAGES_MAX: usize = 100;

/// What came of the wish for a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketOutcome {
    /// It was made.
    Created,
    /// It was there, and belongs to the owner of the keys.
    Ours,
    /// Somebody else has one of this name.
    Theirs,
    /// It was there; whose it is cannot be told, since the keys may not list buckets.
    Somebodys,
    /// The answer was lost and the bucket is not to be seen; it may come yet.
    Unknown,
}

/// What a look for a bucket found.
enum Look {
    Ours,
    Somebodys,
    Absent,
}

/// An S3 server; each call has a client of its own.
pub struct AwsEndpoint {
    /// Its bucket means nothing.
    config: AwsConfig,
    clock: WallClock,
}

impl std::fmt::Debug for AwsEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsEndpoint")
            .field("endpoint", &self.config.endpoint)
            .finish_non_exhaustive()
    }
}

impl AwsEndpoint {
    /// The server of `config`, whichever bucket that names. Sends nothing yet.
    pub fn new(config: AwsConfig, clock: WallClock) -> Self {
        Self { config, clock }
    }

    /// The names of all buckets of the keys' owner, in the server's order.
    pub async fn list_buckets(&self) -> Result<Vec<String>, Error> {
        let asked = Asked::new(Op::Bucket, "");
        let address = self.config.server();
        let (client, _) = client(Arc::new(Tcp), &self.config, address).await?;
        let (mut names, mut token) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let ask = Ask::new((self.clock)());
            let request = client.list_buckets().set_continuation_token(token);
            let page = ask.attach(request.customize(), None).send().await;
            let page = page.map_err(|error| failure(&error, asked).into_error(asked))?;
            let buckets = page.buckets().iter();
            names.extend(buckets.filter_map(|bucket| bucket.name().map(str::to_owned)));
            token = page.continuation_token;
            if token.is_none() {
                return Ok(names);
            }
        }
        Err(asked.error(ErrorKind::Corrupt, "the list of buckets does not end"))
    }

    /// Makes `bucket` unless it is there.
    pub async fn create_bucket(&self, bucket: &str) -> Result<BucketOutcome, Error> {
        let asked = Asked::new(Op::CreateBucket, bucket);
        if !is_bucket_name(bucket) {
            let rule = "a bucket's name has 3 to 63 lower-case letters, digits, '.' and '-', and begins and ends with a letter or digit";
            return Err(asked.error(ErrorKind::Other, rule));
        }
        match self.look(bucket).await? {
            Look::Ours => return Ok(BucketOutcome::Ours),
            Look::Somebodys => return Ok(BucketOutcome::Somebodys),
            Look::Absent => {}
        }
        let config = self.of(bucket);
        let (client, _) = client(Arc::new(Tcp), &config, config.address()).await?;
        let ask = Ask::new((self.clock)());
        let request = client
            .create_bucket()
            .bucket(bucket)
            .set_create_bucket_configuration(configuration(&config.region));
        let Err(error) = ask.attach(request.customize(), None).send().await else {
            return Ok(BucketOutcome::Created);
        };
        if has_code(&error, "BucketAlreadyOwnedByYou") {
            return Ok(BucketOutcome::Ours);
        }
        if has_code(&error, "BucketAlreadyExists") {
            return Ok(BucketOutcome::Theirs);
        }
        match failure(&error, asked) {
            Failure::Lost { reason, .. } => {
                tracing::debug!(bucket, reason, "answer lost");
                // It was absent before.
                Ok(match self.look(bucket).await {
                    Ok(Look::Ours) => BucketOutcome::Created,
                    Ok(Look::Somebodys) => BucketOutcome::Somebodys,
                    Ok(Look::Absent) | Err(_) => BucketOutcome::Unknown,
                })
            }
            failure => Err(failure.into_error(asked)),
        }
    }

    async fn look(&self, bucket: &str) -> Result<Look, Error> {
        match self.list_buckets().await {
            Ok(names) if names.iter().any(|name| name == bucket) => return Ok(Look::Ours),
            Ok(_) => return Ok(Look::Absent),
            Err(error)
                if matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::Unsupported) => {}
            Err(error) => return Err(error),
        }
        let store = AwsStore::connect(self.of(bucket), Arc::clone(&self.clock)).await?;
        match store.head_bucket().await {
            Ok(_) => Ok(Look::Somebodys),
            Err(error) if error.kind == ErrorKind::BucketMissing => Ok(Look::Absent),
            Err(error) => Err(error),
        }
    }

    fn of(&self, bucket: &str) -> AwsConfig {
        AwsConfig {
            bucket: bucket.to_owned(),
            ..self.config.clone()
        }
    }
}

/// What all servers accept of names; the rest is theirs to refuse.
fn is_bucket_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [name.bytes().next(), name.bytes().next_back()];
    (3..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| plain(byte) || b".-".contains(&byte))
        && ends.into_iter().flatten().all(plain)
}

/// Where a bucket is made. The first region is never named: that is an error.
fn configuration(region: &str) -> Option<CreateBucketConfiguration> {
    let there = BucketLocationConstraint::from(region);
    let named = CreateBucketConfiguration::builder().location_constraint(there);
    (region != FIRST_REGION).then(|| named.build())
}
