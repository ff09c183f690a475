//! The `format` object: which features the content below a prefix needs of whoever touches it (design 8 a).
//!
//! A daemon that does not know a feature must not destroy what it does not understand: an unknown *read* feature
//! refuses the datastore, an unknown *write* feature makes it read-only, and an unknown *collect* feature forbids garbage
//! collection, prune and namespace deletion.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The version this release writes, and the highest minimum it satisfies.
const VERSION: u32 = 1;

/// Features this release knows.
const KNOWN: [&str; 0] = [];

/// Feature lists, one for each kind of use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Features {
    #[serde(default)]
    read: Vec<String>,
    #[serde(default)]
    write: Vec<String>,
    #[serde(default)]
    collect: Vec<String>,
}

/// Content of `.holdfast/format`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Format {
    version: u32,
    minimum_reader: u32,
    #[serde(default)]
    features: Features,
}

/// What may be done with the datastore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Permitted {
    /// Why nothing may be written, if so.
    pub(super) read_only: Option<String>,
    /// Why nothing may be collected, if so.
    pub(super) no_collect: Option<String>,
}

fn unknown(features: &[String]) -> Option<String> {
    let unknown = features.iter().filter(|f| !KNOWN.contains(&f.as_str()));
    let names = unknown.map(String::as_str).collect::<Vec<_>>();
    (!names.is_empty()).then(|| names.join(", "))
}

impl Format {
    /// What this release writes into a new datastore.
    pub(super) fn current() -> Self {
        Self {
            version: VERSION,
            minimum_reader: VERSION,
            features: Features::default(),
        }
    }

    /// Reads the object and judges it.
    pub(super) fn judge(bytes: &[u8], place: &str) -> Result<Permitted> {
        let format = serde_json::from_slice::<Self>(bytes).map_err(|error| {
            Error::Refused(format!(
                "{place} cannot be read ({error}); the datastore was written by another release, use that one"
            ))
        })?;
        if format.minimum_reader > VERSION {
            return Err(Error::Refused(format!(
                "{place} asks for a release that reads format {}, this one reads {VERSION}; use a newer release",
                format.minimum_reader
            )));
        }
        let newer = |names: &str, what: &str| {
            format!("{place} names features this release does not know ({names}); {what}")
        };
        if let Some(names) = unknown(&format.features.read) {
            return Err(Error::Refused(newer(&names, "use a newer release")));
        }
        let write = unknown(&format.features.write);
        // Who may not write may not delete either.
        let collect = unknown(&format.features.collect).or_else(|| write.clone());
        Ok(Permitted {
            read_only: write.map(|n| newer(&n, "the datastore can only be read")),
            no_collect: collect.map(|n| {
                newer(
                    &n,
                    "garbage collection, prune and namespace deletion are not possible",
                )
            }),
        })
    }

    /// The object's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a format is plain data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(text: &str) -> Result<Permitted> {
        Format::judge(text.as_bytes(), "the format object")
    }

    #[test]
    fn what_we_write_permits_everything() {
        let bytes = Format::current().encode();
        assert_eq!(Format::judge(&bytes, "it").unwrap(), Permitted::default());
    }

    #[test]
    fn unknown_features_take_away_what_they_name() {
        let text = |lists: &str| {
            format!(r#"{{"version":1,"minimum-reader":1,"features":{{{lists}}},"more":1}}"#)
        };
        assert!(judge(&text(r#""read":["packs"]"#)).is_err());
        let read_only = judge(&text(r#""write":["packs"]"#)).unwrap();
        assert!(read_only.read_only.is_some() && read_only.no_collect.is_some());
        let kept = judge(&text(r#""collect":["doors"]"#)).unwrap();
        assert!(kept.read_only.is_none() && kept.no_collect.is_some());
    }

    #[test]
    fn a_newer_minimum_and_rubbish_are_refused() {
        assert!(judge(r#"{"version":9,"minimum-reader":2}"#).is_err());
        assert!(judge(r#"{"version":9,"minimum-reader":1}"#).is_ok());
        assert!(judge("rubbish").is_err());
    }
}
