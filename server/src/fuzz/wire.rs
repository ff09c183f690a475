//! Bytes on the wire: HTTP/1.1 on a new connection, the upgrade, HTTP/2 frames after it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::sessions::{ask, upgraded};
use super::world::{After, KNOWN_TIME, in_world};

/// Longer than any connection may be silent.
const END_MAX: Duration = Duration::from_hours(2);
/// Longest answer to all that fits into an input, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A SETTINGS frame without settings.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Whatever comes on a new connection, which the client then half closes: the server closes it too, in bounded time and
/// with bounded answers.
pub fn http1(data: &[u8]) {
    in_world(async |world| {
        let io = world.connect();
        let text = exchange(io, data).await;
        let text = String::from_utf8_lossy(&text).into_owned();
        tracing::info!(target: "hostile", text, "answered");
        assert!(!text.starts_with("HTTP/1.1 500"), "{text}");
        // The known people are in no input but by their own names.
        let known = data.windows(11).any(|part| part == b"PBSAPIToken");
        if known {
            After::Changed
        } else {
            After::Unchanged
        }
    });
}

/// The request for an upgrade: its target on the first line, headers on the others. It is answered with 101 or a refusal; a
/// session that was opened ends with the connection.
pub fn upgrade(data: &[u8]) {
    in_world(async |world| {
        let mut lines = data.split(|byte| *byte == b'\n');
        let target = lines.next().unwrap_or_default();
        let Ok(uri) = Uri::try_from(target) else {
            return After::Unchanged;
        };
        let Ok(mut request) = Request::get(uri).body(Full::<Bytes>::default()) else {
            return After::Unchanged;
        };
        for line in lines.take(16) {
            let mut parts = line.splitn(2, |byte| *byte == b':');
            let name = HeaderName::from_bytes(parts.next().unwrap_or_default());
            let value = parts.next().unwrap_or_default().trim_ascii();
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
                request.headers_mut().append(name, value);
            }
        }
        let Ok(answer) = ask(world, request).await else {
            return After::Unchanged;
        };
        let status = answer.status().as_u16();
        tracing::info!(target: "hostile", status, "answered");
        assert!(status < 500 || status == 503, "{status}");
        if status != 101 {
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX as usize);
            let body = tokio::time::timeout(END_MAX, body.collect()).await;
            drop(body.expect("an answer ends"));
        }
        After::Unchanged
    });
}

/// Frames in a session that writes. An input without the preface of HTTP/2 gets it, and an empty SETTINGS frame.
pub fn http2(data: &[u8]) {
    in_world(async |world| {
        let target = format!(
            "/api2/json/backup?store=one&backup-type=host&backup-id=frames&backup-time={}",
            KNOWN_TIME + 60
        );
        let io = upgraded(world, &target, "proxmox-backup-protocol-v1").await;
        let bytes = if data.starts_with(PREFACE) {
            data.to_vec()
        } else {
            [PREFACE, SETTINGS, data].concat()
        };
        exchange(TokioIo::new(io), &bytes).await;
        After::Unchanged
    });
}

/// Sends all, closes this direction, and reads to the end.
async fn exchange(io: impl AsyncRead + AsyncWrite, data: &[u8]) -> Vec<u8> {
    let (reader, mut writer) = tokio::io::split(io);
    let write = async {
        // The other side may have had enough.
        if writer.write_all(data).await.is_ok() {
            drop(writer.shutdown().await);
        }
    };
    let read = async {
        let mut text = Vec::new();
        drop(reader.take(ANSWER_BYTES_MAX).read_to_end(&mut text).await);
        text
    };
    let both = async { tokio::join!(write, read) };
    let ((), text) = tokio::time::timeout(END_MAX, both)
        .await
        .expect("the connection ends");
    assert!(
        (text.len() as u64) < ANSWER_BYTES_MAX,
        "an answer without end"
    );
    text
}
