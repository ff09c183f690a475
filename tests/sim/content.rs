//! The chunks that all clients draw from: few, so that they meet.

use bytes::Bytes;
use pbs_datastore::{CryptKey, DataBlob, Digest};
use rand::RngExt as _;
use rand::rngs::StdRng;

/// Longest chunk after decoding.
pub(crate) const CHUNK_MAX: usize = 1 << 16;

/// One content, and the forms in which it may be stored.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) digest: Digest,
    pub(crate) data: Bytes,
    /// Encoded blobs: plain and compressed, or one that is encrypted.
    pub(crate) forms: Vec<Bytes>,
}

impl Content {
    pub(crate) fn is_encrypted(&self) -> bool {
        self.forms.len() == 1
    }
}

/// All contents of a run.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) contents: Vec<Content>,
    pub(crate) key: CryptKey,
}

impl Pool {
    pub(crate) fn new(rng: &mut StdRng, count: usize) -> Self {
        let key = CryptKey::new([7; 32]);
        let contents = (0..count)
            .map(|n| {
                let times = rng.random_range(4..30);
                let data = Bytes::from(
                    format!("chunk {n} of seed {} ", rng.random_range(0..1000)).repeat(times),
                );
                if rng.random_bool(0.25) {
                    let blob = DataBlob::encode(data.clone(), false, Some(&key), [n as u8; 16]);
                    let digest = key.chunk_digest(&data);
                    let forms = vec![blob.expect("it is short").encoded()];
                    return Content {
                        digest,
                        data,
                        forms,
                    };
                }
                let form = |compress| {
                    let blob = DataBlob::encode(data.clone(), compress, None, [0; 16]);
                    blob.expect("it is short").encoded()
                };
                Content {
                    digest: Digest::of(&data),
                    forms: vec![form(false), form(true)],
                    data,
                }
            })
            .collect();
        Self { contents, key }
    }

    /// An encrypted blob of other content, as long as the plain form of `content`.
    pub(crate) fn forgery(content: &Content) -> Bytes {
        let other = vec![b'x'; content.data.len()];
        let key = CryptKey::new([9; 32]);
        DataBlob::encode(other.into(), false, Some(&key), [1; 16])
            .expect("it is short")
            .encoded()
    }

    pub(crate) fn find(&self, digest: &Digest) -> Option<&Content> {
        self.contents
            .iter()
            .find(|content| content.digest == *digest)
    }
}
