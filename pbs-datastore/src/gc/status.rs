//! What a collection did, as JSON of interface 7.3 with our own members beside it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// References of indexes to chunks, as the mark phase met them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TouchCounts {
    /// To chunks that this run was known to have touched.
    pub hits: u64,
    /// To chunks that were touched for it.
    pub misses: u64,
}

/// The result of a collection; interface 7.3. Sizes are bytes of stored objects unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct GcStatus {
    /// The task that ran it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upid: Option<String>,
    /// Indexes read.
    pub index_file_count: u64,
    /// Logical bytes of all indexes.
    pub index_data_bytes: u64,
    /// Bytes of chunks in use.
    pub disk_bytes: u64,
    /// Chunks in use.
    pub disk_chunks: u64,
    /// Bytes of chunks removed.
    pub removed_bytes: u64,
    /// Chunks removed.
    pub removed_chunks: u64,
    /// Bytes of chunks that are unused but too young, or that an open session may need.
    pub pending_bytes: u64,
    /// The number of those chunks.
    pub pending_chunks: u64,
    /// Corrupt chunks, set aside earlier, that were removed.
    pub removed_bad: u64,
    /// Corrupt chunks that were kept.
    pub still_bad: u64,
    /// Chunks that an index names and the bucket lacks.
    pub missing_chunks: u64,
    /// Keys that the server refused to delete.
    pub refused_chunks: u64,
    /// Keys of which nobody knows whether they were deleted.
    pub unknown_chunks: u64,
    /// Candidates that turned out to be in use when they were checked again.
    pub rescued_chunks: u64,
    /// References to chunks: known to be touched by this run already, and touched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_stats: Option<TouchCounts>,
    /// Who held the cutoff back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_back_by: Option<String>,
    /// Since when that writer writes, in Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_back_since: Option<i64>,
    /// S3 requests by kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, u64>,
}
