//! HTTP/2 frames made by hand, for a client that spends its windows as badly as it may.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200` in the static table of header compression.
const STATUS_200: u8 = 0x88;
/// How long nothing may arrive while the client cannot send.
const STUCK: Duration = Duration::from_secs(30);

struct Received {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Bytes,
}

/// A client that knows nothing but frames.
pub(super) struct RawClient {
    writer: WriteHalf<TokioIo<Upgraded>>,
    frames: mpsc::Receiver<Received>,
    /// Ends with the client.
    _reader: JoinSet<()>,
    connection_window: i64,
    first_window: i64,
    windows: HashMap<u32, i64>,
    /// Whether the stream was answered with 200.
    pub(super) answers: HashMap<u32, bool>,
    pub(super) resets: usize,
}

impl RawClient {
    /// Begins the connection and waits for the server's settings.
    pub(super) async fn begin(io: TokioIo<Upgraded>) -> Self {
        let (reader, writer) = tokio::io::split(io);
        let (sender, frames) = mpsc::channel(64);
        let mut reading = JoinSet::new();
        reading.spawn(read_frames(reader, sender));
        let mut client = Self {
            writer,
            frames,
            _reader: reading,
            connection_window: 65_535,
            first_window: 65_535,
            windows: HashMap::new(),
            answers: HashMap::new(),
            resets: 0,
        };
        client
            .writer
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .expect("connected");
        client.frame(SETTINGS, 0, 0, &[]).await;
        while client.connection_window == 65_535 {
            client.receive().await;
        }
        client
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut head = BytesMut::with_capacity(9);
        head.put_uint(payload.len() as u64, 3);
        head.put_slice(&[kind, flags]);
        head.put_u32(stream);
        self.writer.write_all(&head).await.expect("connected");
        self.writer.write_all(payload).await.expect("connected");
    }

    /// Opens a stream with a POST whose body follows.
    pub(super) async fn post(&mut self, stream: u32, target: &str) {
        let mut block = BytesMut::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", "localhost:8007"),
            (":path", target),
        ] {
            block.put_u8(0);
            for text in [name, value] {
                put_length(&mut block, text.len());
                block.put_slice(text.as_bytes());
            }
        }
        self.windows.insert(stream, self.first_window);
        self.frame(HEADERS, END_HEADERS, stream, &block).await;
    }

    /// Sends one DATA frame if both windows have room for all of it.
    pub(super) async fn try_data(&mut self, stream: u32, data: &[u8], end: bool) -> bool {
        self.writer.flush().await.expect("connected");
        while let Ok(frame) = self.frames.try_recv() {
            self.handle(frame).await;
        }
        let window = self.windows.get_mut(&stream).expect("opened");
        if *window < data.len() as i64 || self.connection_window < data.len() as i64 {
            return false;
        }
        *window -= data.len() as i64;
        self.connection_window -= data.len() as i64;
        self.frame(DATA, if end { END_STREAM } else { 0 }, stream, data)
            .await;
        true
    }

    /// Gives a stream up.
    pub(super) async fn reset(&mut self, stream: u32) {
        self.frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
            .await;
        self.writer.flush().await.expect("connected");
    }

    /// Waits for the next frame; panics if none comes.
    pub(super) async fn receive(&mut self) {
        self.writer.flush().await.expect("connected");
        let frame = tokio::time::timeout(STUCK, self.frames.recv()).await;
        let frame = frame.expect("the server neither reads nor answers");
        self.handle(frame.expect("the connection has ended")).await;
    }

    async fn handle(&mut self, mut frame: Received) {
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => {
                while frame.payload.remaining() >= 6 {
                    let (id, value) = (frame.payload.get_u16(), frame.payload.get_u32());
                    if id == 4 {
                        let change = i64::from(value) - self.first_window;
                        self.first_window += change;
                        self.windows
                            .values_mut()
                            .for_each(|window| *window += change);
                    }
                }
                self.frame(SETTINGS, ACK, 0, &[]).await;
            }
            WINDOW_UPDATE => {
                let more = i64::from(frame.payload.get_u32());
                if frame.stream == 0 {
                    self.connection_window += more;
                } else if let Some(window) = self.windows.get_mut(&frame.stream) {
                    *window += more;
                }
            }
            HEADERS => {
                self.answers
                    .insert(frame.stream, frame.payload.first() == Some(&STATUS_200));
            }
            PING if frame.flags & ACK == 0 => self.frame(PING, ACK, 0, &frame.payload).await,
            RST_STREAM => self.resets += 1,
            GOAWAY => panic!("the server ends the connection: {:?}", frame.payload),
            _ => {}
        }
    }

    /// Sends `body` to each stream in frames of `frame_bytes`, one stream after the other and over again, until all are
    /// sent and answered.
    pub(super) async fn interleave(&mut self, streams: &[u32], body: &Bytes, frame_bytes: usize) {
        let mut rest: Vec<(u32, Bytes)> = streams
            .iter()
            .map(|stream| (*stream, body.clone()))
            .collect();
        while !rest.is_empty() {
            let mut moved = false;
            for (stream, body) in &mut rest {
                let frame = body.slice(..frame_bytes.min(body.len()));
                if self
                    .try_data(*stream, &frame, frame.len() == body.len())
                    .await
                {
                    body.advance(frame.len());
                    moved = true;
                }
            }
            rest.retain(|(_, body)| !body.is_empty());
            if !moved {
                self.receive().await;
            }
        }
        while streams
            .iter()
            .any(|stream| !self.answers.contains_key(stream))
        {
            self.receive().await;
        }
    }
}

fn put_length(block: &mut BytesMut, length: usize) {
    if length < 127 {
        block.put_u8(length as u8);
        return;
    }
    block.put_u8(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.put_u8((rest % 128 + 128) as u8);
        rest /= 128;
    }
    block.put_u8(rest as u8);
}

async fn read_frames(mut reader: ReadHalf<TokioIo<Upgraded>>, frames: mpsc::Sender<Received>) {
    let mut head = [0; 9];
    while reader.read_exact(&mut head).await.is_ok() {
        let mut rest = &head[..];
        let length = rest.get_uint(3) as usize;
        let (kind, flags, stream) = (rest.get_u8(), rest.get_u8(), rest.get_u32() & 0x7fff_ffff);
        let mut payload = vec![0; length];
        if reader.read_exact(&mut payload).await.is_err() {
            return;
        }
        if frames
            .send(Received {
                kind,
                flags,
                stream,
                payload: payload.into(),
            })
            .await
            .is_err()
        {
            return;
        }
    }
}
