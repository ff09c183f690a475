//! What the bucket's `.in-use` object and its local copy say.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Capabilities;
use crate::sabotage::{self, Rule};

/// The only mode this release knows: one daemon writes below the prefix.
pub(super) const MODE_SINGLE: &str = "single";

/// Content of `{store}/.in-use`. A Proxmox Backup Server writes `hostname` alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Record {
    /// Shown by Proxmox Backup Server when it refuses the bucket; ours is never a plain host name.
    #[serde(default)]
    pub(super) hostname: String,
    /// How many daemons may write: [`MODE_SINGLE`]. Absent where a Proxmox Backup Server wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mode: Option<String>,
    /// Id of the cache directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) instance: Option<String>,
    /// Id of the installation that runs the daemon; it outlives the cache directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) installation: Option<String>,
    /// Id of the process start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<String>,
    /// Rises with every start.
    #[serde(default)]
    pub(super) counter: u64,
    /// Rises before every batch of deletes.
    #[serde(default)]
    pub(super) epoch: u64,
    /// The last owner stopped with no request open or unknown.
    #[serde(default)]
    pub(super) clean_stop: bool,
    /// Id of that stop; the cache directory that stopped has the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stop: Option<String>,
    /// What the last start waits for, until that wait is known to be over: a stop and a new start do not shorten it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pending: Option<Before>,
    /// Until that wait is over nothing is answered, whatever start it is in: it began with a cache directory that was not
    /// trusted, so a journal may be lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) unanswered: bool,
    /// When the record was written, by the writer's clock; shown only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) time: Option<Timestamp>,
    /// What the writer believed of the server; shown only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) capabilities: Option<Capabilities>,
    /// What later releases may add; kept as it is.
    #[serde(flatten)]
    pub(super) other: Map<String, Value>,
}

impl Record {
    /// Who holds the prefix, in words.
    pub(super) fn holder(&self) -> String {
        match &self.instance {
            None => format!("the Proxmox Backup Server on host '{}'", self.hostname),
            Some(instance) => {
                let since = self
                    .time
                    .map(|time| format!(", last heard of at {time}"))
                    .unwrap_or_default();
                format!("'{}' (instance {instance}{since})", self.hostname)
            }
        }
    }

    /// Whether this is the record of one process start.
    pub(super) fn is_of(&self, instance: &str, start: &str, counter: u64) -> bool {
        self.instance.as_deref() == Some(instance)
            && self.start.as_deref() == Some(start)
            && self.counter == counter
    }
}

/// Content of `.holdfast/owner.json` in the cache directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct LocalRecord {
    /// Id of the cache directory.
    pub(super) instance: String,
    /// Id of the last process start that held the prefix.
    #[serde(default)]
    pub(super) start: Option<String>,
    /// Id of a start that may have been recorded in the bucket and not here.
    #[serde(default)]
    pub(super) starting: Option<String>,
    /// The counter of that start.
    #[serde(default)]
    pub(super) counter: u64,
    /// The epoch of the last batch that may have been deleted.
    #[serde(default)]
    pub(super) epoch: u64,
    /// Id of the last clean stop.
    #[serde(default)]
    pub(super) stop: Option<String>,
}

impl LocalRecord {
    /// Whether no start of this directory is known to have reached the bucket.
    pub(super) fn is_new(&self) -> bool {
        self.start.is_none() && self.starting.is_none()
    }

    /// Whether everything that was deleted from the bucket is known in this directory (I3): same owner, same start,
    /// same epoch, and the directory that saw the last clean stop.
    pub(super) fn agrees_with(&self, record: &Record) -> bool {
        let start = record.start.as_deref();
        let same_start = start.is_some()
            && (start == self.start.as_deref() || start == self.starting.as_deref());
        let same_stop = record.stop.is_none() || record.stop == self.stop;
        let same_epoch = record.epoch == self.epoch || sabotage::is_off(Rule::EpochCompared);
        record.instance.as_deref() == Some(&self.instance) && same_start && same_stop && same_epoch
    }
}

/// The waits a start costs, from what the bucket says of the owner before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Before {
    /// Nobody ever wrote below the prefix, or the last owner stopped cleanly.
    Settled,
    /// We, or somebody who is known to be dead, did not stop cleanly: requests may still be on their way.
    Unclean,
    /// Somebody else, perhaps alive and paused with a signed request in hand.
    TakenOver,
}

impl Before {
    /// How long requests of the time before may still take effect.
    pub(super) fn wait(self, late_request_max: Duration, signature_window: Duration) -> Duration {
        match self {
            Self::Settled => Duration::ZERO,
            Self::Unclean => late_request_max,
            Self::TakenOver if sabotage::is_off(Rule::TakeOverWaitsWindow) => late_request_max,
            Self::TakenOver => late_request_max + signature_window,
        }
    }
}
