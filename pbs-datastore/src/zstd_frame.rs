//! One zstd frame to or from bytes, with bounded output: a payload of a few bytes can claim to hold terabytes.
//!
//! A payload is exactly one frame. What follows a frame would be covered by no digest, so it is refused.
//!
//! Memory (I9): a frame that says how much it holds is unpacked into as many bytes, at most a chunk's, and hashed there. One that
//! does not is hashed while it is unpacked, in a window of at most [`WINDOW_LOG_MAX`] and a step of output. None of it outlives
//! the call but the state for frames of the first kind, some 100 KiB for each thread that has unpacked one: to make it anew takes longer than to unpack a
//! small chunk. In the daemon that is a job of [`Env::compute`](crate::Env::compute), of which as
//! many run as there are cores, or part of a job of [`Env::io`](crate::Env::io) where a stored file is judged, of which there is a
//! bound as well; so beside the budget for bodies there is one chunk or window for each such job, at most. Manifests
//! are unpacked in such a job as well, at most [`MANIFEST_BYTES_MAX`](crate::MANIFEST_BYTES_MAX); what is
//! kept of them is bounded where it is kept.

use std::cell::RefCell;

use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer};

use crate::blob::BlobError;
use crate::digest::Digester;
use crate::{CHUNK_BYTES_MAX, Digest};

/// Bytes unpacked at a time while hashing.
const STEP_BYTES: usize = 128 << 10;

/// Largest window of a frame: 16 MiB, as much as the largest chunk holds. A window reaches further only in frames made with more
/// than level 19 whose writer did not tell the length. One that tells it needs no window here, but who reads a stream does:
/// chunks are handed to clients as they are.
const WINDOW_LOG_MAX: u32 = 24;
/// The first bytes of a frame.
const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

const _: () = assert!(1 << WINDOW_LOG_MAX == CHUNK_BYTES_MAX);

const DAMAGED: BlobError = BlobError::Zstd("the frame is damaged");

/// The data as one frame, or `None` if that would not be smaller.
pub(crate) fn compress(data: &[u8], level: i32) -> Option<Vec<u8>> {
    // A level that exists and a buffer of sufficient size leave no reason to fail but memory; plain data is always right.
    let frame = zstd::bulk::compress(data, level).ok()?;
    (frame.len() < data.len()).then_some(frame)
}

/// Fails unless `payload` is as long as the frame it starts with, and the frame's window one that readers have.
fn check_one_frame(payload: &[u8]) -> Result<(), BlobError> {
    match zstd_safe::find_frame_compressed_size(payload) {
        Ok(length) if length == payload.len() => {}
        Ok(_) => return Err(BlobError::Zstd("something follows the frame")),
        Err(_) => return Err(DAMAGED),
    }
    match declared_window(payload) {
        Some(bytes) if bytes > 1 << WINDOW_LOG_MAX => {
            Err(BlobError::Zstd("its window is larger than a chunk"))
        }
        _ => Ok(()),
    }
}

/// Bytes of the window that the frame declares; `None` if that is its content (RFC 8878, 3.1.1.1).
fn declared_window(payload: &[u8]) -> Option<u64> {
    const SINGLE_SEGMENT: u8 = 0x20;
    let [descriptor, window, ..] = *payload.strip_prefix(&MAGIC)? else {
        return None;
    };
    if descriptor & SINGLE_SEGMENT != 0 {
        return None;
    }
    let base = 1_u64 << (10 + (window >> 3));
    Some(base + base / 8 * u64::from(window & 7))
}

/// What the frame claims to hold, if it says so and it is at most `limit`.
fn claimed_len(payload: &[u8], limit: usize) -> Result<Option<usize>, BlobError> {
    let claimed = zstd_safe::get_frame_content_size(payload).map_err(|_| DAMAGED)?;
    match claimed {
        Some(length) if length > limit as u64 => Err(BlobError::ContentsTooLong(limit)),
        claimed => Ok(claimed.map(|length| length as usize)),
    }
}

thread_local! {
    /// For frames that say how much they hold; these need no window.
    static WHOLE: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// The contents of a frame that says to hold `length` bytes.
fn whole(payload: &[u8], length: usize) -> Result<Vec<u8>, BlobError> {
    WHOLE.with_borrow_mut(|kept| {
        let context = match kept {
            Some(context) => context,
            None => kept.insert(context()?),
        };
        let mut data = Vec::with_capacity(length);
        context
            .decompress(&mut data, payload)
            .map_err(|_| DAMAGED)?;
        Ok(data)
    })
}

/// The contents of the frame, at most `limit` bytes.
pub(crate) fn decompress(payload: &[u8], limit: usize) -> Result<Vec<u8>, BlobError> {
    check_one_frame(payload)?;
    if let Some(length) = claimed_len(payload, limit)? {
        return whole(payload, length);
    }
    let mut data = Vec::new();
    unpack(payload, limit, |step| data.extend_from_slice(step))?;
    Ok(data)
}

/// Digest and length of the contents of the frame, at most `limit` bytes of them.
pub(crate) fn digest(payload: &[u8], limit: usize) -> Result<(Digest, u64), BlobError> {
    check_one_frame(payload)?;
    if let Some(length) = claimed_len(payload, limit)? {
        let data = whole(payload, length)?;
        return Ok((Digest::of(&data), data.len() as u64));
    }
    let (mut hash, mut length) = (Digester::new(), 0);
    unpack(payload, limit, |step| {
        hash.update(step);
        length += step.len() as u64;
    })?;
    Ok((hash.finish(), length))
}

fn context() -> Result<DCtx<'static>, BlobError> {
    DCtx::try_create().ok_or(BlobError::Zstd("there is no memory for it"))
}

/// Hands the contents to `take`, step by step.
fn unpack(payload: &[u8], limit: usize, mut take: impl FnMut(&[u8])) -> Result<(), BlobError> {
    let mut context = context()?;
    let bounded = context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX));
    bounded.map_err(|_| BlobError::Zstd("its window cannot be bounded"))?;
    let mut input = InBuffer::around(payload);
    let mut step = vec![0; STEP_BYTES];
    let mut total = 0;
    loop {
        let consumed = input.pos();
        let mut output = OutBuffer::around(&mut step[..]);
        let left = context
            .decompress_stream(&mut output, &mut input)
            .map_err(|_| DAMAGED)?;
        let produced = output.pos();
        total += produced;
        if total > limit {
            return Err(BlobError::ContentsTooLong(limit));
        }
        take(&step[..produced]);
        if left == 0 {
            return Ok(());
        }
        // Neither input nor output moved: the frame goes on after the end of the payload.
        if produced == 0 && input.pos() == consumed {
            return Err(DAMAGED);
        }
    }
}
