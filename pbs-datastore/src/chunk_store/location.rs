//! Where a digest is (design 8 b).
//!
//! Reads, inserts, sweep and verify ask here; nobody else builds the key of a chunk. Today every chunk is an object of
//! its own (interface 7.5); a chunk inside a larger object would be a second kind of [`ChunkLocation`].

use s3_client::{KeyError, KeyPrefix, ObjectKey};

use crate::Digest;

/// Where the bytes of one chunk are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChunkLocation {
    /// A whole object under this key.
    Object(ObjectKey),
}

/// The chunks of one datastore in its bucket.
#[derive(Clone, Debug)]
pub(crate) struct ChunkLocations {
    prefix: KeyPrefix,
}

impl ChunkLocations {
    /// The chunks of the datastore below `store`, which ends in a slash. Fails if the keys would be too long.
    pub(crate) fn new(store: &KeyPrefix) -> Result<Self, KeyError> {
        let locations = Self {
            prefix: store.child(".chunks")?,
        };
        locations.key(&Digest([0; 32])).map(|_| locations)
    }

    /// Where the chunk is, or is to be put.
    pub(crate) fn of(&self, digest: &Digest) -> ChunkLocation {
        let key = self.key(digest);
        ChunkLocation::Object(key.expect("all keys have the length that was tried by `new`"))
    }

    /// The prefix of all chunks, for listings.
    pub(crate) fn prefix(&self) -> &KeyPrefix {
        &self.prefix
    }

    /// Which chunk a listed object is; `None` for what is no chunk (`.bad` files, strangers).
    pub(crate) fn digest(&self, key: &ObjectKey) -> Option<Digest> {
        let (folder, name) = self.prefix.strip(key)?.split_once('/')?;
        let digest: Digest = name.parse().ok()?;
        (digest.folder() == folder).then_some(digest)
    }

    fn key(&self, digest: &Digest) -> Result<ObjectKey, KeyError> {
        self.prefix.key(&format!("{}/{digest}", digest.folder()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lead_back_to_their_digests() {
        let store = KeyPrefix::new("store/").unwrap();
        let locations = ChunkLocations::new(&store).unwrap();
        let digest = Digest::of(b"a");
        let ChunkLocation::Object(key) = locations.of(&digest);
        let expected = format!("store/.chunks/{}/{digest}", digest.folder());
        assert_eq!(key.as_str(), expected);
        assert_eq!(locations.digest(&key), Some(digest));
        for stranger in [
            format!("{expected}.0.bad"),
            format!("store/.chunks/0000/{digest}"),
            format!("store2/.chunks/{}/{digest}", digest.folder()),
        ] {
            assert_eq!(locations.digest(&ObjectKey::new(stranger).unwrap()), None);
        }
    }

    #[test]
    fn a_prefix_that_leaves_no_room_for_keys_is_refused() {
        let store = KeyPrefix::new(format!("{}/", "a".repeat(1000))).unwrap();
        assert!(ChunkLocations::new(&store).is_err());
    }
}
