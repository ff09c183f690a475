//! What an S3 server may answer, through the SDK and our connector, over a socket of this machine.
//!
//! The first byte of an input chooses the request. Then the answer: the status on the first line, headers on the others, an
//! empty line, the body. The server closes the connection after it. A `Content-Length` is added unless the input has one.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use s3_client::{
    AwsConfig, AwsStore, ByteRange, Copy, Credentials, DeleteRequest, KeyPrefix, KeyRange,
    ListRequest, ObjectKey, ObjectStore, Part, Precondition, Put, Secret, UploadId, delete_all,
    list_all,
};
use tokio::runtime::Runtime;

/// Longest head and body of a request, in bytes.
const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Pages that a listing may ask for before it has to notice that the server leads it in circles.
const PAGES_MAX: usize = 64;
/// How long a request may take; the server answers at once.
const REQUEST_MAX: Duration = Duration::from_secs(1);

struct Server {
    runtime: Runtime,
    store: AwsStore,
    answer: Arc<Mutex<Vec<u8>>>,
}

thread_local! {
    static SERVER: Server = Server::start();
}

/// One request, answered with the input. No answer is read as more than it says.
pub(super) fn s3_answer(data: &[u8]) {
    let Some((kind, answer)) = data.split_first() else {
        return;
    };
    SERVER.with(|server| {
        *server.answer.lock().unwrap_or_else(PoisonError::into_inner) = whole(answer);
        server.runtime.block_on(ask(&server.store, *kind, answer));
    });
}

/// The answer as it goes over the wire.
fn whole(answer: &[u8]) -> Vec<u8> {
    let end = answer.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = match end {
        Some(end) => (&answer[..end], &answer[end + 2..]),
        None => (answer, &[][..]),
    };
    let head = String::from_utf8_lossy(head);
    // An empty line would end the head here, and what is added below would be part of the body.
    let lines = head.split('\n').map(|line| line.trim_end_matches('\r'));
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let mut text = format!("HTTP/1.1 {}\r\n", lines.join("\r\n"));
    if !head.to_ascii_lowercase().contains("content-length") {
        text.push_str("Content-Length: ");
        text.push_str(&body.len().to_string());
        text.push_str("\r\n");
    }
    [text.as_bytes(), b"\r\n", body].concat()
}

async fn ask(store: &AwsStore, kind: u8, answer: &[u8]) {
    let key = |name: &str| ObjectKey::new(name).expect("a key");
    let prefix = KeyPrefix::new("store/.chunks/").expect("a prefix");
    match kind % 13 {
        0 => {
            if let Ok(page) = store.list(&ListRequest::new(prefix.clone())).await {
                for entry in &page.value.entries {
                    assert!(
                        prefix.strip(&entry.key).is_some(),
                        "a key outside the prefix is listed"
                    );
                }
                assert!(page.value.entries.len() <= answer.len());
            }
        }
        1 => {
            let pages = std::cell::Cell::new(0);
            let sink = |_| {
                pages.set(pages.get() + 1);
                assert!(pages.get() < PAGES_MAX, "a listing goes in circles");
                std::future::ready(Ok::<_, s3_client::Error>(()))
            };
            let _ = list_all(store, &prefix, vec![KeyRange::all()], 1, sink).await;
        }
        2 => {
            let requests: Vec<DeleteRequest> = ["store/a", "store/b&<>", "store/c"]
                .map(|name| key(name).into())
                .to_vec();
            let deleted = delete_all(store, &requests, None).await;
            assert_eq!(
                deleted.outcomes.len(),
                requests.len(),
                "an outcome for each key"
            );
        }
        3 => {
            if let Ok(object) = store.get(&key("store/a"), None).await {
                let bytes = object.value.body.into_bytes();
                assert!(bytes.len() <= answer.len(), "a body longer than the answer");
                assert_eq!(
                    bytes.len() as u64,
                    object.value.meta.size,
                    "a body of another length than its object"
                );
            }
        }
        4 => {
            let range = ByteRange { start: 1, end: 4 };
            if let Ok(object) = store.get(&key("store/a"), Some(range)).await {
                assert!(
                    object.value.body.into_bytes().len() <= 3,
                    "more than the range"
                );
            }
        }
        5 => drop(store.head(&key("store/a")).await),
        6 => drop(store.put(Put::new(key("store/a"), "content")).await),
        7 => drop(
            store
                .put(Put::new(key("store/a"), "content").when(Precondition::Absent))
                .await,
        ),
        8 => drop(store.delete(&[key("store/a").into()], None).await),
        9 => {
            let copy = Copy::new(key("store/a"), key("store/b"));
            drop(store.copy(copy.when(Precondition::Absent)).await);
        }
        10 => drop(
            store
                .create_multipart(&key("store/a"), s3_client::Metadata::new())
                .await,
        ),
        11 => drop(store.bucket_settings().await),
        _ => {
            let part = Part {
                number: 1,
                etag: s3_client::ETag::new("a"),
            };
            let (key, upload) = (key("store/a"), UploadId("u".to_owned()));
            let parts = [part];
            let completed = store.complete_multipart(&key, &upload, &parts, Precondition::None);
            drop(completed.await);
        }
    }
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let answer = Arc::new(Mutex::new(Vec::new()));
        let said = Arc::clone(&answer);
        // Ends with the process; nothing else connects.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let said = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // The client may have gone.
                let _ = serve(stream, &said);
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let credentials = Credentials::Static {
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: Secret::new("hush"),
            session_token: None,
        };
        let mut config = AwsConfig::new(format!("http://{address}"), "bucket", credentials);
        config.answer_timeout_ms = 1000;
        let clock = || "2026-11-20T12:00:00Z".parse::<Timestamp>().expect("a time");
        let store = runtime.block_on(AwsStore::connect(config, Arc::new(clock)));
        Self {
            store: store.expect("a valid configuration"),
            runtime,
            answer,
        }
    }
}

/// Answers one request, and closes.
fn serve(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(REQUEST_MAX))?;
    let (mut request, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let end = request.windows(4).position(|part| part == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| {
                line.strip_prefix("content-length:")?
                    .trim()
                    .parse::<usize>()
                    .ok()
            });
            if request.len() >= end + 4 + length.unwrap_or(0) {
                break;
            }
        }
        let read = stream.read(&mut part)?;
        if read == 0 || request.len() > REQUEST_BYTES_MAX {
            return Ok(());
        }
        request.extend_from_slice(&part[..read]);
    }
    stream.write_all(answer)
}
