//! HTTP/2 as it is written by hand, after an upgrade: any frame at any moment.
//!
//! What the server sends is read all the time by a task of its own, so that a flood is never slowed down by answers
//! that nobody takes. Header compression is switched off for the server (a table of 0 bytes), so that a status can be
//! read without its history.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::WAIT_MAX;
use super::http1::Connection;
use super::peer::Tls;

/// Kinds of frames.
pub mod kind {
    /// A piece of a body.
    pub const DATA: u8 = 0;
    /// A head.
    pub const HEADERS: u8 = 1;
    /// How much a stream matters.
    pub const PRIORITY: u8 = 2;
    /// The end of a stream before its time.
    pub const RST_STREAM: u8 = 3;
    /// What the sender wishes.
    pub const SETTINGS: u8 = 4;
    /// A stream that the sender promises to answer.
    pub const PUSH_PROMISE: u8 = 5;
    /// A question for a sign of life.
    pub const PING: u8 = 6;
    /// The end of the connection.
    pub const GOAWAY: u8 = 7;
    /// More room for bodies.
    pub const WINDOW_UPDATE: u8 = 8;
    /// The rest of a head.
    pub const CONTINUATION: u8 = 9;
}

/// Flag of DATA and HEADERS: the last of the stream.
pub const END_STREAM: u8 = 1;
/// Flag of SETTINGS and PING: an answer.
pub const ACK: u8 = 1;
/// Flag of HEADERS and CONTINUATION: the last of the head.
pub const END_HEADERS: u8 = 4;
/// Flag of DATA and HEADERS: with padding.
pub const PADDED: u8 = 8;
/// Setting: the size of the table of header compression.
pub const HEADER_TABLE_SIZE: u16 = 1;
/// Setting: the window of each stream.
pub const INITIAL_WINDOW_SIZE: u16 = 4;
/// The beginning of every connection.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The window before any setting.
const FIRST_WINDOW: i64 = 65_535;
/// Longest body of an answer that is kept, in bytes; the rest is only counted.
const BODY_BYTES_MAX: usize = 32 << 20;

/// What a stream was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status; 0 if there is none yet.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
    /// The body is complete.
    pub ended: bool,
    /// The stream was reset with this code.
    pub reset: Option<u32>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The member `data` of the body.
    pub fn data(&self) -> Result<serde_json::Value> {
        let told = || format!("no JSON in {} {:?}", self.status, self.text());
        let mut body: serde_json::Value = serde_json::from_slice(&self.body).with_context(told)?;
        Ok(body["data"].take())
    }
}

/// What was received so far.
#[derive(Debug)]
struct Received {
    connection_window: i64,
    first_window: i64,
    /// What each open stream may still be sent.
    windows: BTreeMap<u32, i64>,
    answers: BTreeMap<u32, Answer>,
    settings_seen: bool,
    settings_to_answer: u32,
    pings_to_answer: Vec<[u8; 8]>,
    acks: u64,
    goaway: Option<u32>,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    received: Mutex<Received>,
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that speaks frames.
#[derive(Debug)]
pub struct Session {
    writer: WriteHalf<Tls>,
    shared: Arc<Shared>,
    next_stream: u32,
    /// Ends with the session.
    _reader: JoinSet<()>,
}

impl Session {
    /// Begins HTTP/2 on a connection that was just upgraded, with these settings besides a table of 0 bytes.
    pub async fn begin(connection: Connection, settings: &[(u16, u32)]) -> Result<Self> {
        let (stream, rest) = connection.into_parts();
        let (reader, writer) = tokio::io::split(stream);
        let shared = Arc::new(Shared {
            received: Mutex::new(Received {
                connection_window: FIRST_WINDOW,
                first_window: FIRST_WINDOW,
                windows: BTreeMap::new(),
                answers: BTreeMap::new(),
                settings_seen: false,
                settings_to_answer: 0,
                pings_to_answer: Vec::new(),
                acks: 0,
                goaway: None,
                closed: false,
            }),
            changed: Notify::new(),
        });
        let mut reading = JoinSet::new();
        reading.spawn(read_frames(reader, rest, Arc::clone(&shared)));
        let mut session = Self {
            writer,
            shared,
            next_stream: 1,
            _reader: reading,
        };
        session.raw(PREFACE).await?;
        let all = [&[(HEADER_TABLE_SIZE, 0)], settings].concat();
        session.settings(&all).await?;
        session
            .until("settings", |received| received.settings_seen.then_some(()))
            .await?;
        session.answer_questions().await?;
        Ok(session)
    }

    /// With room for answers of any size.
    pub async fn begin_with_room(connection: Connection) -> Result<Self> {
        let mut session = Self::begin(connection, &[(INITIAL_WINDOW_SIZE, 0x7fff_ffff)]).await?;
        let room = 0x4000_0000_u32.to_be_bytes();
        session.frame(kind::WINDOW_UPDATE, 0, 0, &room).await?;
        Ok(session)
    }

    /// Sends bytes as they are.
    pub async fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        let sending = async {
            self.writer.write_all(bytes).await?;
            self.writer.flush().await
        };
        timeout(WAIT_MAX, sending)
            .await
            .context("nobody takes it")??;
        Ok(())
    }

    /// Sends a frame.
    pub async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
        let mut bytes = BytesMut::with_capacity(9 + payload.len());
        put_frame(&mut bytes, kind, flags, stream, payload);
        self.raw(&bytes).await
    }

    /// Sends settings.
    pub async fn settings(&mut self, settings: &[(u16, u32)]) -> Result<()> {
        let mut payload = BytesMut::new();
        for (id, value) in settings {
            payload.put_u16(*id);
            payload.put_u32(*value);
        }
        self.frame(kind::SETTINGS, 0, 0, &payload).await
    }

    /// A number for a stream that is opened next.
    pub fn next_stream(&mut self) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let first = self.shared.lock().first_window;
        self.shared.lock().windows.insert(stream, first);
        stream
    }

    /// Opens a stream; with `end` it has no body.
    pub async fn open(&mut self, method: &str, target: &str, end: bool) -> Result<u32> {
        self.open_with(method, target, &[], end).await
    }

    /// The same with more headers.
    pub async fn open_with(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        end: bool,
    ) -> Result<u32> {
        let stream = self.next_stream();
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        let head = head(method, target, headers);
        self.frame(kind::HEADERS, flags, stream, &head).await?;
        Ok(stream)
    }

    /// Sends a piece of a body, as its windows allow; waits for room.
    pub async fn data(&mut self, stream: u32, mut body: &[u8], end: bool) -> Result<()> {
        const FRAME_BYTES: i64 = 16 << 10;
        loop {
            self.answer_questions().await?;
            let wanted = (body.len() as i64).min(FRAME_BYTES);
            let take = |received: &mut Received| {
                let window = received.windows.get_mut(&stream)?;
                let room = wanted.min(*window).min(received.connection_window);
                if room <= 0 && wanted > 0 {
                    return None;
                }
                *window -= room;
                received.connection_window -= room;
                Some(room as usize)
            };
            let room = self.until("room for a body", take).await?;
            let (now, later) = body.split_at(room);
            let last = later.is_empty();
            let flags = if end && last { END_STREAM } else { 0 };
            self.frame(kind::DATA, flags, stream, now).await?;
            if last {
                return Ok(());
            }
            body = later;
        }
    }

    /// Waits for the whole answer of a stream.
    pub async fn answer(&mut self, stream: u32) -> Result<Answer> {
        self.answer_questions().await?;
        let complete = |received: &mut Received| {
            let answer = received.answers.get(&stream)?;
            let over = answer.ended || answer.reset.is_some();
            over.then(|| answer.clone())
        };
        let answer = self.until("an answer", complete).await?;
        self.shared.lock().answers.remove(&stream);
        Ok(answer)
    }

    /// One call from its first byte to the last of its answer. The body may be refused before its end.
    pub async fn call(&mut self, method: &str, target: &str, body: &[u8]) -> Result<Answer> {
        let stream = self.open(method, target, body.is_empty()).await?;
        if !body.is_empty() {
            self.data(stream, body, true).await?;
        }
        self.answer(stream).await
    }

    /// The answer of a stream as far as it has come.
    pub fn answer_so_far(&self, stream: u32) -> Answer {
        let received = self.shared.lock();
        received.answers.get(&stream).cloned().unwrap_or_default()
    }

    /// How many streams have an answer with this status, complete or not.
    pub fn answered(&self, status: u16) -> usize {
        let received = self.shared.lock();
        let all = received.answers.values();
        all.filter(|answer| answer.status == status).count()
    }

    /// How many streams the server has reset.
    pub fn resets(&self) -> usize {
        let received = self.shared.lock();
        let all = received.answers.values();
        all.filter(|answer| answer.reset.is_some()).count()
    }

    /// How many answers to settings and pings have come.
    pub fn acks(&self) -> u64 {
        self.shared.lock().acks
    }

    /// Whether the server has ended the connection.
    pub fn is_over(&self) -> bool {
        let received = self.shared.lock();
        received.closed || received.goaway.is_some()
    }

    /// Waits until the server ends the connection; the code that it gave, if any. An error if it does not in time.
    pub async fn over(&mut self, time: Duration) -> Result<Option<u32>> {
        let waiting = self.until("the end of the connection", |received| {
            received.closed.then_some(received.goaway)
        });
        timeout(time, waiting)
            .await
            .context("the connection goes on")?
    }

    /// Sends what the server waits for: answers to settings and pings.
    pub async fn answer_questions(&mut self) -> Result<()> {
        let (settings, pings) = {
            let mut received = self.shared.lock();
            let settings = std::mem::take(&mut received.settings_to_answer);
            (settings, std::mem::take(&mut received.pings_to_answer))
        };
        for _ in 0..settings {
            self.frame(kind::SETTINGS, ACK, 0, &[]).await?;
        }
        for ping in pings {
            self.frame(kind::PING, ACK, 0, &ping).await?;
        }
        Ok(())
    }

    async fn until<T>(
        &self,
        what: &str,
        mut ask: impl FnMut(&mut Received) -> Option<T>,
    ) -> Result<T> {
        let waiting = async {
            loop {
                let changed = self.shared.changed.notified();
                let mut changed = std::pin::pin!(changed);
                // From here on no change is missed.
                changed.as_mut().enable();
                {
                    let mut received = self.shared.lock();
                    if let Some(answer) = ask(&mut received) {
                        return Ok(answer);
                    }
                    if received.closed {
                        bail!("the connection ended ({:?}) before {what}", received.goaway);
                    }
                }
                changed.await;
            }
        };
        let waited = timeout(WAIT_MAX, waiting).await;
        waited.with_context(|| format!("{what} did not come in time"))?
    }
}

/// A frame in bytes.
pub fn put_frame(bytes: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    bytes.put_uint(payload.len() as u64, 3);
    bytes.put_slice(&[kind, flags]);
    bytes.put_u32(stream);
    bytes.put_slice(payload);
}

/// A head, without compression.
pub fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> BytesMut {
    let own = [
        (":method", method),
        (":scheme", "https"),
        (":authority", "localhost:8007"),
        (":path", target),
    ];
    let mut block = BytesMut::new();
    for (name, value) in own.iter().chain(headers) {
        block.put_u8(0);
        for text in [name, value] {
            put_integer(&mut block, 0, 7, text.len());
            block.put_slice(text.as_bytes());
        }
    }
    block
}

/// An integer of header compression, in the last `bits` bits of the first byte and those that follow.
pub fn put_integer(block: &mut BytesMut, first: u8, bits: u32, value: usize) {
    let most = (1_usize << bits) - 1;
    if value < most {
        block.put_u8(first | value as u8);
        return;
    }
    block.put_u8(first | most as u8);
    let mut rest = value - most;
    while rest >= 128 {
        block.put_u8((rest % 128 + 128) as u8);
        rest /= 128;
    }
    block.put_u8(rest as u8);
}

/// The status in the head of an answer: always its first field.
fn status_of(block: &[u8]) -> Result<u16> {
    // Indexes 8 to 14 of the static table.
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // Changes of the table's size come first.
    let updates = block.iter().take_while(|byte| *byte & 0xe0 == 0x20).count();
    let field = block.get(updates..).context("an empty head")?;
    let first = *field.first().context("an empty head")?;
    if first & 0x80 != 0 {
        let index = usize::from(first & 0x7f);
        let status = index.checked_sub(8).and_then(|at| INDEXED.get(at));
        return status.copied().context("an index that is no status");
    }
    let named = first & 0x0f;
    ensure!((8..=14).contains(&named), "the head begins without status");
    let length = *field.get(1).context("a short head")?;
    let value = field
        .get(2..2 + usize::from(length & 0x7f))
        .context("a short head")?;
    let text = if length & 0x80 == 0 {
        String::from_utf8(value.to_vec())?
    } else {
        digits(value)
    };
    text.parse().context("the status is no number")
}

/// Digits in the code of header compression: those up to 2 have five bits, the others six.
fn digits(coded: &[u8]) -> String {
    let bits: Vec<u8> = coded
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let number = |bits: &[u8]| bits.iter().fold(0_u8, |sum, bit| sum * 2 + bit);
    let mut text = String::new();
    let mut rest = &bits[..];
    while text.len() < 3 && rest.len() >= 5 {
        let short = number(&rest[..5]);
        let (value, length) = match rest.get(..6).map(number) {
            _ if short <= 2 => (short, 5),
            Some(long @ 0x19..=0x1f) => (long - 0x19 + 3, 6),
            _ => break,
        };
        text.push(char::from(b'0' + value));
        rest = &rest[length..];
    }
    text
}

async fn read_frames(mut reader: ReadHalf<Tls>, mut buffer: BytesMut, shared: Arc<Shared>) {
    loop {
        while let Some((kind, flags, stream, payload)) = take_frame(&mut buffer) {
            handle(&mut shared.lock(), kind, flags, stream, payload);
            shared.changed.notify_waiters();
        }
        if !matches!(reader.read_buf(&mut buffer).await, Ok(1..)) {
            shared.lock().closed = true;
            shared.changed.notify_waiters();
            return;
        }
    }
}

fn take_frame(buffer: &mut BytesMut) -> Option<(u8, u8, u32, BytesMut)> {
    let mut head = buffer.get(..9)?;
    let length = head.get_uint(3) as usize;
    let (kind, flags, stream) = (head.get_u8(), head.get_u8(), head.get_u32() & 0x7fff_ffff);
    if buffer.len() < 9 + length {
        return None;
    }
    buffer.advance(9);
    Some((kind, flags, stream, buffer.split_to(length)))
}

fn handle(received: &mut Received, kind: u8, flags: u8, stream: u32, mut payload: BytesMut) {
    match kind {
        kind::SETTINGS | kind::PING if flags & ACK != 0 => received.acks += 1,
        kind::SETTINGS => {
            while payload.remaining() >= 6 {
                let (id, value) = (payload.get_u16(), payload.get_u32());
                if id == INITIAL_WINDOW_SIZE {
                    let change = i64::from(value) - received.first_window;
                    received.first_window += change;
                    for window in received.windows.values_mut() {
                        *window += change;
                    }
                }
            }
            received.settings_seen = true;
            received.settings_to_answer += 1;
        }
        kind::PING => {
            if let Some(eight) = payload.first_chunk::<8>() {
                received.pings_to_answer.push(*eight);
            }
        }
        kind::WINDOW_UPDATE if payload.len() == 4 => {
            let more = i64::from(payload.get_u32());
            if stream == 0 {
                received.connection_window += more;
            } else if let Some(window) = received.windows.get_mut(&stream) {
                *window += more;
            }
        }
        kind::HEADERS => {
            let answer = received.answers.entry(stream).or_default();
            if answer.status == 0 {
                answer.status = status_of(&payload).unwrap_or(1);
            }
            answer.ended |= flags & END_STREAM != 0;
        }
        kind::DATA => {
            let answer = received.answers.entry(stream).or_default();
            let room = BODY_BYTES_MAX.saturating_sub(answer.body.len());
            answer
                .body
                .extend_from_slice(&payload[..payload.len().min(room)]);
            answer.ended |= flags & END_STREAM != 0;
        }
        kind::RST_STREAM if payload.len() == 4 => {
            let answer = received.answers.entry(stream).or_default();
            answer.reset = Some(payload.get_u32());
        }
        kind::GOAWAY if payload.len() >= 8 => {
            payload.advance(4);
            received.goaway = Some(payload.get_u32());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_in_all_their_forms() {
        assert_eq!(status_of(&[0x88]).ok(), Some(200));
        assert_eq!(status_of(&[0x20, 0x8d]).ok(), Some(404));
        assert_eq!(status_of(b"\x08\x03503").ok(), Some(503));
        // "401" in bits: 011010 00000 00001, then ones.
        assert_eq!(
            status_of(&[0x48, 0x82, 0b0110_1000, 0b0000_0001]).ok(),
            Some(401)
        );
        assert!(status_of(&[0x84]).is_err());
        assert!(status_of(&[]).is_err());
    }

    #[test]
    fn integers_are_those_of_the_standard() {
        let coded = |bits, value| {
            let mut block = BytesMut::new();
            put_integer(&mut block, 0, bits, value);
            block.to_vec()
        };
        assert_eq!(coded(5, 10), [10]);
        assert_eq!(coded(5, 1337), [31, 154, 10]);
    }
}
