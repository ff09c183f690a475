//! Properties of single objects: what is written is read, and conditions decide.

use futures_util::future::join_all;
use jiff::SignedDuration;

use super::{Verdict, Violation, content, created, ensure, same, write};
use crate::store::{Body, ByteRange, DeleteRequest, Metadata, ObjectStore, PAGE_KEYS_MAX, Put};
use crate::{
    DeleteOutcome, ETag, ErrorKind, KeyPrefix, ObjectKey, Optional, Precondition, PutId, PutOutcome,
};

/// An object is read as it was written, with the tag the put answered, also through HEAD.
pub async fn roundtrip(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let key = below.key("object")?;
    let parts: Body = [&b"head"[..], b"", b"payload"]
        .into_iter()
        .map(bytes::Bytes::from_static)
        .collect();
    let etag = write(store, &key, parts).await?;
    let object = store.get(&key, None).await?.value;
    same("size", &object.meta.size, &11)?;
    same("tag of GET", &object.meta.etag, &etag)?;
    same(
        "content",
        &&object.body.into_bytes()[..],
        &&b"headpayload"[..],
    )?;
    let meta = store.head(&key).await?.value;
    same("size of HEAD", &meta.size, &11)?;
    same("tag of HEAD", &meta.etag, &etag)
}

/// A put without condition replaces content, tag and metadata.
pub async fn overwrite(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let key = below.key("object")?;
    let mut first = Put::new(key.clone(), "one");
    first.metadata.insert("old".to_owned(), "yes".to_owned());
    let before = created(store.put(first).await?.value)?;
    let after = write(store, &key, "two, longer").await?;
    ensure(before != after, || {
        format!("two contents share the tag {before}")
    })?;
    same(
        "content",
        &content(store, &key).await?,
        &b"two, longer".to_vec(),
    )?;
    let meta = store.head(&key).await?.value;
    same("tag", &meta.etag, &after)?;
    same("metadata", &meta.metadata, &Metadata::new())
}

/// An object may have no bytes.
pub async fn empty_body(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let key = below.key("empty")?;
    write(store, &key, Body::empty()).await?;
    same("size", &store.head(&key).await?.value.size, &0)?;
    same("content", &content(store, &key).await?, &Vec::new())
}

/// User metadata comes back with GET and HEAD.
pub async fn metadata(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let key = below.key("object")?;
    let metadata: Metadata = [("crypt-mode", "none"), ("note", "two words, (a) = 1/2")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let mut put = Put::new(key.clone(), "content");
    put.metadata = metadata.clone();
    created(store.put(put).await?.value)?;
    let read = store.get(&key, None).await?.value;
    same("metadata of GET", &read.meta.metadata, &metadata)?;
    same(
        "metadata of HEAD",
        &store.head(&key).await?.value.metadata,
        &metadata,
    )
}

/// The author of a put is told by HEAD.
pub async fn put_id(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let key = below.key("object")?;
    let id = PutId("3f1c/7/a9".to_owned());
    let mut put = Put::new(key.clone(), "content");
    put.put_id = Some(id.clone());
    created(store.put(put).await?.value)?;
    same("put-id", &store.head(&key).await?.value.put_id(), &Some(id))
}

/// Ranges are half-open and cut at the end; one that starts behind the end is an error.
pub async fn ranges(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let key = below.key("object")?;
    write(store, &key, "0123456789").await?;
    for (start, end, wanted) in [
        (0, 1, "0"),
        (0, 10, "0123456789"),
        (3, 7, "3456"),
        (8, 4000, "89"),
    ] {
        let object = store.get(&key, Some(ByteRange { start, end })).await?.value;
        same("size of the whole object", &object.meta.size, &10)?;
        let what = format!("bytes {start}..{end}");
        same(&what, &&object.body.into_bytes()[..], &wanted.as_bytes())?;
    }
    let behind = ByteRange { start: 10, end: 11 };
    match store.get(&key, Some(behind)).await {
        Ok(_) => Err(Violation("a range behind the end was answered".to_owned())),
        Err(error) => ensure(error.kind != ErrorKind::NotFound, || {
            "a range behind the end is told as absence".to_owned()
        }),
    }
}

/// A key that is not there is *not found*, and deleting it is no error.
pub async fn absent_key(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let key = below.key("absent")?;
    same(
        "GET",
        &store.get(&key, None).await.optional()?.is_some(),
        &false,
    )?;
    same(
        "HEAD",
        &store.head(&key).await.optional()?.is_some(),
        &false,
    )?;
    write(store, &below.key("absent/below")?, "x").await?;
    same(
        "HEAD of a folder",
        &store.head(&key).await.optional()?.is_some(),
        &false,
    )?;
    let outcomes = store.delete(&[key.into()], None).await?.value;
    ensure(outcomes.len() == 1 && is_gone(&outcomes[0]), || {
        format!("deleting nothing came to {outcomes:?}")
    })
}

fn is_gone(outcome: &DeleteOutcome) -> bool {
    matches!(outcome, DeleteOutcome::Deleted | DeleteOutcome::NotFound)
}

/// Every answer carries the server's date, and LastModified is near it and the same everywhere.
pub async fn dates(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let key = below.key("object")?;
    let put = store.put(Put::new(key.clone(), "x")).await?;
    let head = store.head(&key).await?;
    let list = store.list(&crate::ListRequest::new(below.clone())).await?;
    for (what, date) in [("put", put.date), ("head", head.date), ("list", list.date)] {
        let date = date.ok_or_else(|| Violation(format!("the answer of {what} has no date")))?;
        let apart = date.duration_since(head.value.last_modified).abs();
        ensure(apart <= SignedDuration::from_secs(60), || {
            format!("{what}: the date and LastModified are {apart} apart")
        })?;
    }
    let listed = list.value.entries.first().map(|entry| entry.last_modified);
    let listed = listed.ok_or_else(|| Violation("the listing is empty".to_owned()))?;
    let apart = listed.duration_since(head.value.last_modified).abs();
    ensure(apart < SignedDuration::from_secs(1), || {
        format!("LastModified of HEAD and listing are {apart} apart")
    })
}

/// Of two creations the first wins, and the second changes nothing.
pub async fn conditional_create(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let key = below.key("object")?;
    let create = |body: &'static str| Put::new(key.clone(), body).when(Precondition::Absent);
    let etag = created(store.put(create("first")).await?.value)?;
    let second = store.put(create("second")).await?.value;
    same("second creation", &second, &PutOutcome::Exists)?;
    let again = store.put(create("first")).await?.value;
    same("same content again", &again, &PutOutcome::Exists)?;
    same("content", &content(store, &key).await?, &b"first".to_vec())?;
    same("tag", &store.head(&key).await?.value.etag, &etag)?;
    store.delete(&[key.clone().into()], None).await?;
    created(store.put(create("third")).await?.value).map(drop)
}

/// Of any number of concurrent creations exactly one wins, and its content is what is there.
pub async fn concurrent_creators(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    const ROUNDS: usize = 4;
    const CREATORS: usize = 32;
    for round in 0..ROUNDS {
        let key = below.key(&format!("round-{round}"))?;
        let puts = (0..CREATORS).map(|n| {
            let put = Put::new(key.clone(), format!("creator {n}").into_bytes());
            store.put(put.when(Precondition::Absent))
        });
        let mut winners = Vec::new();
        for (n, answer) in join_all(puts).await.into_iter().enumerate() {
            match answer?.value {
                PutOutcome::Created { .. } => winners.push(n),
                PutOutcome::Exists | PutOutcome::Conflict => {}
                other => return Err(Violation(format!("creator {n} was answered {other:?}"))),
            }
        }
        ensure(winners.len() == 1, || {
            format!("round {round} was won by {winners:?}")
        })?;
        let wanted = format!("creator {}", winners[0]).into_bytes();
        same("content", &content(store, &key).await?, &wanted)?;
    }
    Ok(())
}

/// A put under a tag replaces that very content, and nothing else.
pub async fn conditional_overwrite(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let key = below.key("object")?;
    let replace = |body: &'static str, etag: &ETag| {
        Put::new(key.clone(), body).when(Precondition::Matches(etag.clone()))
    };
    let first = write(store, &key, "one").await?;
    let second = created(store.put(replace("two", &first)).await?.value)?;
    let stale = store.put(replace("three", &first)).await?.value;
    same("put under a stale tag", &stale, &PutOutcome::Exists)?;
    same("content", &content(store, &key).await?, &b"two".to_vec())?;
    store.delete(&[key.clone().into()], None).await?;
    let missing = store.put(replace("four", &second)).await?.value;
    same(
        "put under the tag of nothing",
        &missing,
        &PutOutcome::Exists,
    )?;
    let found = store.head(&key).await.optional()?.is_some();
    same("an object after a refused put", &found, &false)
}

/// A deletion under a tag removes that very content, and nothing else.
pub async fn conditional_delete(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let key = below.key("object")?;
    let old = write(store, &key, "one").await?;
    let new = write(store, &key, "two").await?;
    let request = |etag: &ETag| DeleteRequest {
        key: key.clone(),
        if_match: Some(etag.clone()),
        version: None,
    };
    let stale = store.delete(&[request(&old)], None).await?.value;
    same(
        "deletion under a stale tag",
        &stale,
        &vec![DeleteOutcome::PreconditionFailed],
    )?;
    same("content", &content(store, &key).await?, &b"two".to_vec())?;
    let right = store.delete(&[request(&new)], None).await?.value;
    same(
        "deletion under the tag",
        &right,
        &vec![DeleteOutcome::Deleted],
    )?;
    let found = store.head(&key).await.optional()?.is_some();
    same("an object after its deletion", &found, &false)
}

/// A full batch has one outcome per key, absent ones among them, and touches no other key.
pub async fn batch_delete(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let folder = below.child("batch")?;
    let beside = below.key("batch-beside")?;
    write(store, &beside, "stays").await?;
    let keys = (0..PAGE_KEYS_MAX)
        .map(|n| folder.key(&format!("{n:04}")))
        .collect::<Result<Vec<ObjectKey>, _>>()?;
    for key in keys.iter().step_by(25) {
        write(store, key, "goes").await?;
    }
    let requests: Vec<DeleteRequest> = keys.into_iter().map(DeleteRequest::from).collect();
    let outcomes = store.delete(&requests, None).await?.value;
    same("number of outcomes", &outcomes.len(), &requests.len())?;
    ensure(outcomes.iter().all(is_gone), || {
        format!("outcomes {outcomes:?}")
    })?;
    let left = super::list_all(store, &folder, None, PAGE_KEYS_MAX).await?;
    same("keys left", &left, &Vec::new())?;
    same(
        "the key beside",
        &content(store, &beside).await?,
        &b"stays".to_vec(),
    )
}
