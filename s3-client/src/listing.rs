//! Complete listings, in parallel ranges.
//!
//! A range is bounded by keys, not by prefixes: `start-after` and a stop key. Ranges whose ends are the next one's starts
//! cover everything below the prefix, whatever its name. Any error ends the whole listing with that error (I10): what
//! the sink got until then proves nothing of what is *not* there.

use futures_util::stream::{self, Stream};
use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;

use crate::{Error, ErrorKind, KeyPrefix, ListEntry, ListRequest, ObjectStore, Op, PAGE_KEYS_MAX};

/// Folders of four hexadecimal digits.
const HEX_FOLDERS: usize = 1 << 16;

/// The keys after `start_after` up to and including `stop`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// Only keys that sort after it; `None` begins with the first.
    pub start_after: Option<String>,
    /// Only keys that do not sort after it; `None` ends with the last.
    pub stop: Option<String>,
}

impl KeyRange {
    /// All keys.
    pub fn all() -> Self {
        Self::default()
    }

    /// Splits what lies below `prefix`, where folders have four lower-case hexadecimal digits, into `count` ranges of
    /// about as many folders (1 to 65,536 of them). Keys that are named otherwise are in one of the ranges, too.
    pub fn of_hex_folders(prefix: &KeyPrefix, count: usize) -> Vec<Self> {
        let count = count.clamp(1, HEX_FOLDERS);
        let border = |i: usize| {
            let inner = i > 0 && i < count;
            inner.then(|| format!("{prefix}{:04x}", HEX_FOLDERS * i / count))
        };
        (0..count)
            .map(|i| Self {
                start_after: border(i),
                stop: border(i + 1),
            })
            .collect()
    }
}

/// A part of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPage {
    /// Index of the range it belongs to.
    pub range: usize,
    /// At most [`PAGE_KEYS_MAX`], in byte order, after those of the range's earlier pages.
    pub entries: Vec<ListEntry>,
    /// The server's clock when it answered.
    pub date: Option<Timestamp>,
}

/// What a complete listing came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Objects.
    pub keys: u64,
    /// Requests, retries not included.
    pub pages: u64,
    /// The server's clock at its earliest answer: what was written later may be missing.
    pub date: Option<Timestamp>,
}

/// Where a range goes on.
struct Cursor {
    start_after: Option<String>,
    is_done: bool,
}

/// The pages of one range.
fn pages<'a>(
    store: &'a dyn ObjectStore,
    prefix: &'a KeyPrefix,
    index: usize,
    range: KeyRange,
) -> impl Stream<Item = Result<ListedPage, Error>> + Send + 'a {
    let cursor = Cursor {
        start_after: range.start_after,
        is_done: false,
    };
    stream::try_unfold((cursor, range.stop), move |(mut cursor, stop)| async move {
        if cursor.is_done {
            return Ok(None);
        }
        let request = ListRequest {
            prefix: prefix.clone(),
            start_after: cursor.start_after.take(),
            keys_max: PAGE_KEYS_MAX,
        };
        let answer = store.list(&request).await?;
        let mut entries = answer.value.entries;
        check(&request, &entries, answer.value.truncated)?;
        cursor.start_after = entries.last().map(|entry| entry.key.as_str().to_owned());
        cursor.is_done = !answer.value.truncated;
        if let Some(stop) = &stop {
            let inside = entries.partition_point(|entry| entry.key.as_str() <= stop.as_str());
            cursor.is_done |= inside < entries.len() || cursor.start_after.as_ref() == Some(stop);
            entries.truncate(inside);
        }
        let page = ListedPage {
            range: index,
            entries,
            date: answer.date,
        };
        Ok(Some((page, (cursor, stop))))
    })
}

/// Refuses a page from which the listing could not go on without gaps or end.
fn check(request: &ListRequest, entries: &[ListEntry], truncated: bool) -> Result<(), Error> {
    let corrupt = |what: &str| {
        let prefix = request.prefix.as_str();
        Err(Error::new(ErrorKind::Corrupt, Op::List, prefix, what))
    };
    if truncated && entries.is_empty() {
        return corrupt("an empty page that is said to have a next one");
    }
    let mut last = request.start_after.as_deref();
    for entry in entries {
        if last.is_some_and(|last| entry.key.as_str() <= last) {
            return corrupt("the keys are not in order");
        }
        last = Some(entry.key.as_str());
    }
    Ok(())
}

/// Lists everything in `ranges` below `prefix`, at most `concurrency` ranges at a time (at least 1), and hands the pages
/// to `sink` one by one, those of a range in order. The listing waits while the sink works.
///
/// Errors: the first one of the store or of the sink; pages may have reached the sink before it.
pub async fn list_all<E, F, Fut>(
    store: &dyn ObjectStore,
    prefix: &KeyPrefix,
    ranges: Vec<KeyRange>,
    concurrency: usize,
    mut sink: F,
) -> Result<Listed, E>
where
    E: From<Error>,
    F: FnMut(ListedPage) -> Fut,
    Fut: Future<Output = Result<(), E>>,
{
    let mut listing = stream::iter(ranges.into_iter().enumerate())
        .map(|(index, range)| pages(store, prefix, index, range).boxed())
        .flatten_unordered(concurrency.max(1));
    let mut listed = Listed::default();
    while let Some(page) = listing.try_next().await? {
        listed.pages += 1;
        listed.keys += page.entries.len() as u64;
        listed.date = match (listed.date, page.date) {
            (Some(earlier), Some(date)) => Some(earlier.min(date)),
            (earlier, date) => earlier.or(date),
        };
        sink(page).await?;
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{Faults, Scripted, Step};

    fn prefix() -> KeyPrefix {
        KeyPrefix::new("s/.chunks/").expect("a prefix")
    }

    /// A bucket with `count` chunks and things that do not belong there.
    fn bucket(count: usize) -> (Scripted, Vec<String>) {
        let store = Scripted::with(Faults {
            keys_per_page: Some(7),
            ..Faults::default()
        });
        for i in 0..count {
            let folder = i * 65_536 / count;
            store.place(&format!("s/.chunks/{folder:04x}/{i:064x}"), "x");
        }
        for odd in ["8000", "8000!", "Odd", "zz/late", "0000"] {
            store.place(&format!("s/.chunks/{odd}"), "x");
        }
        let inside = store.keys();
        store.place("s/.chunks", "x");
        store.place("s/.chunksandmore", "x");
        store.place("t/x", "x");
        (store, inside)
    }

    async fn list(
        store: &Scripted,
        ranges: Vec<KeyRange>,
        concurrency: usize,
    ) -> Result<(Vec<String>, Listed), Error> {
        let mut keys: Vec<Vec<String>> = vec![Vec::new(); ranges.len()];
        let listed = list_all(store, &prefix(), ranges, concurrency, |page| {
            let names = page.entries.iter().map(|entry| entry.key.to_string());
            keys[page.range].extend(names);
            std::future::ready(Ok::<_, Error>(()))
        })
        .await?;
        Ok((keys.concat(), listed))
    }

    #[tokio::test]
    async fn ranges_together_list_everything_once_and_in_order() {
        let (store, inside) = bucket(100);
        for (count, concurrency) in [(1, 1), (2, 2), (3, 8), (16, 4), (300, 16)] {
            let ranges = KeyRange::of_hex_folders(&prefix(), count);
            let (keys, listed) = list(&store, ranges, concurrency).await.expect("complete");
            assert_eq!(keys, inside, "{count} ranges");
            assert_eq!(listed.keys, inside.len() as u64);
            assert_eq!(listed.date, Some(crate::scripted::date()));
        }
    }

    #[tokio::test]
    async fn ranges_cost_at_most_one_request_more_each() {
        let (store, inside) = bucket(100);
        let ranges = KeyRange::of_hex_folders(&prefix(), 4);
        let (_, listed) = list(&store, ranges, 4).await.expect("complete");
        assert!(listed.pages as usize <= inside.len().div_ceil(7) + 4);
    }

    #[tokio::test]
    async fn an_error_anywhere_ends_it() {
        let (store, _) = bucket(100);
        for good in 0..15 {
            store.then(vec![Step::Pass; good]);
            store.then([Step::Fail(ErrorKind::Unavailable)]);
            let error = list(&store, vec![KeyRange::all()], 1).await;
            assert_eq!(error.expect_err("incomplete").kind, ErrorKind::Unavailable);
        }
    }

    #[tokio::test]
    async fn a_server_that_ignores_start_after_is_found_out() {
        let store = Scripted::with(Faults {
            keys_per_page: Some(2),
            ignores_start_after: true,
            ..Faults::default()
        });
        for name in ["a", "b", "c"] {
            store.place(&format!("s/.chunks/{name}"), "x");
        }
        let error = list(&store, vec![KeyRange::all()], 1).await;
        assert_eq!(error.expect_err("endless").kind, ErrorKind::Corrupt);
    }

    #[test]
    fn borders_touch() {
        let ranges = KeyRange::of_hex_folders(&prefix(), 3);
        assert_eq!(ranges[0].start_after, None);
        assert_eq!(ranges[0].stop.as_deref(), Some("s/.chunks/5555"));
        assert_eq!(ranges[0].stop, ranges[1].start_after);
        assert_eq!(ranges[1].stop, ranges[2].start_after);
        assert_eq!(ranges[2].stop, None);
        assert_eq!(KeyRange::of_hex_folders(&prefix(), 0).len(), 1);
        assert_eq!(KeyRange::of_hex_folders(&prefix(), 1 << 20).len(), 1 << 16);
    }
}
