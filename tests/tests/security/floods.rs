//! Floods of HTTP/2 frames, from somebody who may back up here: each ends with the connection, or is answered in step, and
//! none of them takes memory that is not its own.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::{BufMut as _, BytesMut};
use holdfast_tests::attack::http1::Connection;
use holdfast_tests::attack::http2::{
    self, END_HEADERS, END_STREAM, INITIAL_WINDOW_SIZE, PADDED, Session, kind, put_frame,
};
use holdfast_tests::process::say;
use pbs_datastore::{ArchiveKind, Index};

use super::accounts::{HONEST, RIVAL};
use super::bombs::chunk_target;
use super::world::{BESIDE_BUDGET_BYTES, BUDGET_BYTES, World};

/// Frames of one flood.
const FRAMES: u32 = 50_000;
/// How long the server may take to end a connection that deserves it.
const END_MAX: Duration = Duration::from_secs(10);
/// Codes of HTTP/2.
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// Sends frames in pieces until all are sent or nobody takes them.
async fn flood(session: &mut Session, frames: &BytesMut) -> bool {
    for piece in frames.chunks(256 << 10) {
        if session.is_over() || session.raw(piece).await.is_err() {
            return false;
        }
    }
    true
}

/// The connection must end, with one of these codes, or without any if it is broken off.
async fn ends(what: &str, session: &mut Session, codes: &[u32]) -> Result<()> {
    let ended = session.over(END_MAX).await;
    let code = ended.with_context(|| what.to_owned())?;
    ensure!(
        code.is_none_or(|code| codes.contains(&code)),
        "{what}: ended with {code:?}"
    );
    Ok(())
}

/// The session must still answer.
async fn lives(what: &str, session: &mut Session) -> Result<()> {
    let answer = session.call("GET", "/previous_backup_time", b"").await;
    let answer = answer.with_context(|| what.to_owned())?;
    ensure!(answer.status == 200, "{what}: {}", answer.status);
    Ok(())
}

fn heads(count: u32, more: impl Fn(&mut BytesMut, u32)) -> BytesMut {
    let head = http2::head("POST", "/speedtest", &[]);
    let mut frames = BytesMut::new();
    for number in 0..count {
        let stream = 2 * number + 1;
        put_frame(&mut frames, kind::HEADERS, END_HEADERS, stream, &head);
        more(&mut frames, stream);
    }
    frames
}

/// Streams that are opened only to be closed.
async fn resets(world: &World) -> Result<usize> {
    let what = "streams that are reset at once";
    let mut session = world.backup_session(RIVAL, "flood-resets").await?;
    let frames = heads(20_000, |frames, stream| {
        put_frame(frames, kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    });
    flood(&mut session, &frames).await;
    ends(what, &mut session, &[ENHANCE_YOUR_CALM]).await?;

    let what = "streams that the server has to reset";
    let mut session = world.backup_session(RIVAL, "flood-made-resets").await?;
    let frames = heads(20_000, |frames, stream| {
        put_frame(frames, kind::WINDOW_UPDATE, 0, stream, &[0; 4]);
    });
    flood(&mut session, &frames).await;
    ends(what, &mut session, &[ENHANCE_YOUR_CALM, PROTOCOL_ERROR]).await?;

    let what = "streams beyond the number that is allowed";
    let mut session = world.backup_session(RIVAL, "flood-streams").await?;
    let frames = heads(20_000, |_, _| {});
    flood(&mut session, &frames).await;
    ends(what, &mut session, &[ENHANCE_YOUR_CALM, PROTOCOL_ERROR]).await?;
    Ok(3)
}

/// Heads that never end, or are small on the way and large in memory.
async fn endless_heads(world: &World) -> Result<usize> {
    let what = "a head without end";
    let mut session = world.backup_session(RIVAL, "flood-continuation").await?;
    let mut frames = BytesMut::new();
    let head = http2::head("GET", "/", &[]);
    put_frame(&mut frames, kind::HEADERS, END_STREAM, 1, &head);
    let mut field = BytesMut::new();
    for _ in 0..100 {
        field.put_slice(b"\x00\x05x-abc\x64");
        field.put_bytes(b'y', 100);
    }
    for _ in 0..5_000 {
        put_frame(&mut frames, kind::CONTINUATION, 0, 1, &field);
    }
    flood(&mut session, &frames).await;
    let codes = [ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR];
    ends(what, &mut session, &codes).await?;

    let what = "a head in empty pieces";
    let mut session = world.backup_session(RIVAL, "flood-empty-pieces").await?;
    let mut frames = BytesMut::new();
    put_frame(&mut frames, kind::HEADERS, END_STREAM, 1, &head);
    for _ in 0..FRAMES {
        put_frame(&mut frames, kind::CONTINUATION, 0, 1, &[]);
    }
    flood(&mut session, &frames).await;
    ends(what, &mut session, &codes).await?;

    let what = "a head that unpacks to megabytes";
    let mut session = world.backup_session(RIVAL, "flood-compression").await?;
    for _ in 0..20 {
        let mut block = http2::head("GET", "/previous_backup_time", &[]);
        // A field of 3 KiB is kept in the table, and named by one byte again and again.
        block.put_slice(b"\x40\x03x-y");
        http2::put_integer(&mut block, 0, 7, 3000);
        block.put_bytes(b'z', 3000);
        block.put_bytes(0xbe, 10_000);
        let stream = session.next_stream();
        let flags = END_HEADERS | END_STREAM;
        if session
            .frame(kind::HEADERS, flags, stream, &block)
            .await
            .is_err()
        {
            break;
        }
        let Ok(answer) = session.answer(stream).await else {
            break;
        };
        ensure!(
            answer.status == 431 || answer.reset.is_some(),
            "{what}: {answer:?}"
        );
    }
    Ok(3)
}

/// Frames that mean nothing and cost nothing to send.
async fn idle_frames(world: &World) -> Result<usize> {
    let floods: [(&str, u8, u8, u32, &[u8]); 8] = [
        ("settings", kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
        ("empty settings", kind::SETTINGS, 0, 0, &[]),
        (
            "settings of the table",
            kind::SETTINGS,
            0,
            0,
            &[0, 1, 0, 0, 0, 0],
        ),
        ("pings", kind::PING, 0, 0, &[7; 8]),
        ("priorities", kind::PRIORITY, 0, 9, &[0, 0, 0, 0, 1]),
        ("frames of no kind", 0xee, 0, 0, &[1; 16]),
        ("answers to nothing", kind::PING, http2::ACK, 0, &[7; 8]),
        (
            "windows that grow by one",
            kind::WINDOW_UPDATE,
            0,
            0,
            &[0, 0, 0, 1],
        ),
    ];
    for (number, (what, kind, flags, stream, payload)) in floods.iter().enumerate() {
        let mut session = world
            .backup_session(RIVAL, &format!("flood-idle-{number}"))
            .await?;
        let mut frames = BytesMut::new();
        for _ in 0..FRAMES {
            put_frame(&mut frames, *kind, *flags, *stream, payload);
        }
        if flood(&mut session, &frames).await && !session.is_over() {
            lives(what, &mut session).await?;
        } else {
            ends(what, &mut session, &[ENHANCE_YOUR_CALM, PROTOCOL_ERROR]).await?;
        }
    }
    Ok(floods.len())
}

/// Bodies in pieces of nothing or next to nothing, of streams that nobody reads yet.
async fn tiny_data(world: &World) -> Result<usize> {
    let pieces: [(&str, u8, &[u8]); 3] = [
        ("empty pieces", 0, &[]),
        ("pieces of padding", PADDED, &[200; 201]),
        ("pieces of one byte", 0, &[7]),
    ];
    for (number, (what, flags, piece)) in pieces.iter().enumerate() {
        let mut session = world
            .backup_session(RIVAL, &format!("flood-data-{number}"))
            .await?;
        let opened = session
            .call("POST", "/dynamic_index?archive-name=a.didx", b"")
            .await?;
        ensure!(opened.status == 200, "{}", opened.text());
        // The first of these are granted their memory, the others wait for it.
        let mut streams = Vec::new();
        for _ in 0..100 {
            let target = chunk_target(1, &"ab".repeat(32), 1 << 24, 1 << 24);
            streams.push(session.open("POST", &target, false).await?);
        }
        let mut frames = BytesMut::new();
        for turn in 0..FRAMES as usize * 4 {
            let stream = streams[turn % streams.len()];
            put_frame(&mut frames, kind::DATA, *flags, stream, piece);
        }
        flood(&mut session, &frames).await;
        // It may live or not; memory is what counts.
        if session.is_over() {
            ends(what, &mut session, &[ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR]).await?;
        }
    }
    Ok(pieces.len())
}

/// Windows that are closed, nearly closed, or larger than there can be.
async fn windows(world: &World) -> Result<usize> {
    let mut session = world.backup_session(RIVAL, "flood-overflow").await?;
    for _ in 0..2 {
        let most = 0x7fff_ffff_u32.to_be_bytes();
        session.frame(kind::WINDOW_UPDATE, 0, 0, &most).await?;
    }
    ends("a window beyond all", &mut session, &[FLOW_CONTROL_ERROR]).await?;

    // A reader that asks for much and takes nothing.
    let connection = world.reader_connection(RIVAL, "big").await?;
    let mut session = Session::begin_with_room(connection).await?;
    let index = session
        .call("GET", "/download?file-name=disk.img.fidx", b"")
        .await?;
    ensure!(index.status == 200, "{}", index.text());
    let index = Index::parse(ArchiveKind::Fixed, index.body.into())?;
    let digests: Vec<String> = index
        .chunks()
        .map(|chunk| chunk.digest.to_string())
        .collect();
    session.settings(&[(INITIAL_WINDOW_SIZE, 0)]).await?;
    let mut streams = Vec::new();
    for turn in 0..60 {
        let target = format!("/chunk?digest={}", digests[turn % digests.len()]);
        streams.push(session.open("GET", &target, true).await?);
    }
    // Honest rounds go on beside it meanwhile; then it takes a byte at a time.
    let mut frames = BytesMut::new();
    for turn in 0..FRAMES as usize {
        let stream = streams[turn % streams.len()];
        put_frame(
            &mut frames,
            kind::WINDOW_UPDATE,
            0,
            stream,
            &1_u32.to_be_bytes(),
        );
    }
    if flood(&mut session, &frames).await {
        let answer = session.answer_so_far(streams[0]);
        ensure!(
            answer.reset.is_none() && answer.body.len() <= FRAMES as usize,
            "{} bytes were sent",
            answer.body.len()
        );
    }
    Ok(2)
}

/// Uploads that are announced in full and begun, and then nothing: all memory that a session may claim.
async fn stalled_uploads(world: &World) -> Result<usize> {
    let mut sessions = Vec::new();
    for number in 0..8 {
        let mut session = world
            .backup_session(RIVAL, &format!("flood-stalled-{number}"))
            .await?;
        let opened = session
            .call("POST", "/dynamic_index?archive-name=a.didx", b"")
            .await?;
        ensure!(opened.status == 200, "{}", opened.text());
        // One stream less than the least that a session gets.
        for _ in 0..15 {
            let target = chunk_target(1, &"cd".repeat(32), 1 << 24, 1 << 24);
            let stream = session.open("POST", &target, false).await?;
            session.data(stream, &[1; 100], false).await?;
        }
        sessions.push(session);
    }
    for session in &mut sessions {
        lives("a session with stalled uploads", session).await?;
    }
    // An honest backup beside them, from its first byte to its last.
    let (done, doing) = tokio::sync::oneshot::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| drop(done.send(world.honest_round())));
    });
    doing.await?.context("beside stalled uploads")?;
    Ok(sessions.len())
}

/// Frames that break the rules.
async fn broken_frames(world: &World) -> Result<usize> {
    let head = http2::head("GET", "/", &[]);
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut frame = BytesMut::new();
        put_frame(&mut frame, kind, flags, stream, payload);
        frame.to_vec()
    };
    let long = [
        &[0xff, 0xff, 0xff, kind::DATA, 0, 0, 0, 0, 1][..],
        &[0; 100],
    ]
    .concat();
    let cases: [(&str, Vec<u8>); 12] = [
        ("data of no stream", frame(kind::DATA, 0, 0, b"x")),
        (
            "data of a stream that is not open",
            frame(kind::DATA, 0, 77, b"x"),
        ),
        (
            "a stream of the server's",
            frame(kind::HEADERS, END_HEADERS, 2, &head),
        ),
        (
            "a promise",
            frame(kind::PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
        ),
        ("half of a setting", frame(kind::SETTINGS, 0, 0, &[0; 5])),
        (
            "a window of a settings",
            frame(kind::SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
        ),
        ("a frame of 16 MB", long),
        ("half of a ping", frame(kind::PING, 0, 0, &[0; 4])),
        (
            "the rest of no head",
            frame(kind::CONTINUATION, END_HEADERS, 1, &head),
        ),
        (
            "a broken head",
            frame(kind::HEADERS, END_HEADERS, 1, &[0xff; 64]),
        ),
        (
            "a request of HTTP/1.1",
            b"GET /api2/json/version HTTP/1.1\r\n\r\n".to_vec(),
        ),
        (
            "more padding than frame",
            frame(kind::DATA, PADDED, 1, &[255, 1]),
        ),
    ];
    for (number, (what, bytes)) in cases.iter().enumerate() {
        let mut session = world
            .backup_session(RIVAL, &format!("flood-broken-{number}"))
            .await?;
        session.raw(bytes).await?;
        let codes = [
            PROTOCOL_ERROR,
            FLOW_CONTROL_ERROR,
            FRAME_SIZE_ERROR,
            COMPRESSION_ERROR,
            5,
        ];
        ends(what, &mut session, &codes).await?;
    }
    // Something else than HTTP/2 after the upgrade.
    let prefaces = [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 100],
        b"PRI * HTTP/2.0\r\n\r\nXX",
    ];
    for (number, bytes) in prefaces.iter().enumerate() {
        let id = format!("flood-preface-{number}");
        let mut connection: Connection = world.backup_connection(RIVAL, &id).await?;
        connection.write(bytes).await?;
        connection.rest(END_MAX).await?;
    }
    Ok(cases.len() + prefaces.len())
}

#[test]
fn floods_of_frames_drown_nobody() -> Result<()> {
    let world = World::new()?;
    world.explain(|| {
        world.back_up(RIVAL, "big", "")?;
        let most = BUDGET_BYTES + BESIDE_BUDGET_BYTES;
        let mut made = world.beside("reset streams", most, resets(&world))?;
        made += world.beside("endless heads", most, endless_heads(&world))?;
        made += world.beside("idle frames", most, idle_frames(&world))?;
        made += world.beside("tiny pieces of bodies", most, tiny_data(&world))?;
        made += world.beside("windows", most, windows(&world))?;
        made += world.beside("stalled uploads", most, stalled_uploads(&world))?;
        made += world.beside("broken frames", most, broken_frames(&world))?;
        let log = world.daemon.log();
        ensure!(!log.contains("panicked"), "the daemon panicked");
        say(&format!(
            "security: 7 kinds of floods, {made} sessions in all, each over and forgotten"
        ));
        world.back_up(HONEST, "after-all", "")
    });
    world.daemon.stop()
}
