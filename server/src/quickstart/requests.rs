//! What the S3 server was asked, as it counted itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use s3_client::serve::{COUNTERS_PATH, OperationCount};
use tokio::time::timeout;

/// How long an answer may take, and most bytes of it.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Asks the S3 server for its counters.
#[derive(Debug)]
pub(super) struct RequestCounter {
    client: Client<HttpConnector, Empty<Bytes>>,
    url: String,
    last: Requests,
}

/// Requests by S3 operation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Requests(BTreeMap<String, u64>);

impl Requests {
    fn parse(json: &[u8]) -> anyhow::Result<Self> {
        let counts: BTreeMap<String, OperationCount> = serde_json::from_slice(json)
            .context("the counters of the S3 server are not understood")?;
        let requests = counts
            .into_iter()
            .map(|(name, count)| (name, count.requests));
        Ok(Self(requests.collect()))
    }

    /// Those that came after `earlier`.
    fn since(&self, earlier: &Self) -> Self {
        let new = self.0.iter().map(|(name, count)| {
            let before = earlier.0.get(name).copied().unwrap_or(0);
            (name.clone(), count.saturating_sub(before))
        });
        Self(new.filter(|(_, count)| *count > 0).collect())
    }

    /// All of them.
    pub(super) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Like `12 PutObject, 3 GetObject`, the most frequent first.
    pub(super) fn by_operation(&self) -> String {
        let mut counts: Vec<_> = self.0.iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let texts = counts.iter().map(|(name, count)| format!("{count} {name}"));
        texts.collect::<Vec<_>>().join(", ")
    }
}

impl RequestCounter {
    /// Counts from zero at the server with this endpoint.
    pub(super) fn new(endpoint: &str) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            url: format!("{endpoint}{COUNTERS_PATH}"),
            last: Requests::default(),
        }
    }

    /// All requests so far.
    pub(super) async fn all(&self) -> anyhow::Result<Requests> {
        let fault = "the S3 server does not tell its counters";
        let request = Request::get(&self.url).body(Empty::new())?;
        let exchange = async {
            let answer = self.client.request(request).await.context(fault)?;
            if answer.status() != StatusCode::OK {
                bail!("{fault}: it answered {}", answer.status());
            }
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
            let body = body.collect().await.map_err(anyhow::Error::from_boxed);
            Requests::parse(&body.context(fault)?.to_bytes())
        };
        timeout(ANSWER_TIME_MAX, exchange).await.context(fault)?
    }

    /// The requests since the last call.
    pub(super) async fn next(&mut self) -> anyhow::Result<Requests> {
        let all = self.all().await?;
        let new = all.since(&self.last);
        self.last = all;
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(counts: &[(&str, u64)]) -> Requests {
        Requests(
            counts
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
        )
    }

    #[test]
    fn counters_are_read_and_subtracted() {
        let text = br#"{"GetObject":{"requests":3,"statuses":{"200":2,"404":1},"bytes_in":0,"bytes_out":9},
            "PutObject":{"requests":12,"statuses":{"200":12},"bytes_in":5,"bytes_out":0}}"#;
        let now = Requests::parse(text).expect("counters");
        assert_eq!(now.total(), 15);
        assert_eq!(now.by_operation(), "12 PutObject, 3 GetObject");
        let new = now.since(&requests(&[("GetObject", 3), ("PutObject", 10)]));
        assert_eq!(new, requests(&[("PutObject", 2)]));
        assert!(Requests::parse(b"[]").is_err());
    }
}
