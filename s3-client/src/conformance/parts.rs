//! Properties of copies and multipart uploads.

use bytes::Bytes;
use futures_util::future::join_all;

use super::{Verdict, Violation, content, created, ensure, same, write};
use crate::decide::PART_BYTES_MIN;
use crate::store::{Body, Copy, Metadata, ObjectStore, Part, PartOutcome, Put, UploadId};
use crate::{ErrorKind, KeyPrefix, ObjectKey, Optional, Precondition, PutOutcome};

/// A copy has the content of its source and the metadata asked for; a missing source is *not found*.
pub async fn copies(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let (source, target) = (below.key("source ü+%")?, below.key("target")?);
    write(store, &source, "content").await?;
    let metadata: Metadata = [("kind".to_owned(), "copy".to_owned())].into();
    let copy = Copy {
        metadata: metadata.clone(),
        ..Copy::new(source.clone(), target.clone())
    };
    let etag = created(store.copy(copy.clone()).await?.value)?;
    let object = store.get(&target, None).await?.value;
    same("content", &&object.body.into_bytes()[..], &&b"content"[..])?;
    same("metadata", &object.meta.metadata, &metadata)?;
    same("tag", &object.meta.etag, &etag)?;
    store.delete(&[source.into()], None).await?;
    match store.copy(copy).await {
        Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
        other => Err(Violation(format!("copying nothing came to {other:?}"))),
    }
}

/// A copy onto what is there is refused and changes nothing; of any number of concurrent copies and creations of one key
/// exactly one wins.
pub async fn conditional_copy(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    const WRITERS: usize = 16;
    let (source, target) = (below.key("source")?, below.key("target")?);
    write(store, &source, "copied").await?;
    let there = write(store, &target, "there").await?;
    let copy = Copy::new(source, target.clone()).when(Precondition::Absent);
    let onto = store.copy(copy.clone()).await?.value;
    same("copy onto an object", &onto, &PutOutcome::Exists)?;
    same(
        "content",
        &content(store, &target).await?,
        &b"there".to_vec(),
    )?;
    same("tag", &store.head(&target).await?.value.etag, &there)?;
    let raced = below.key("raced")?;
    let copies = (0..WRITERS).map(|_| {
        let target = raced.clone();
        store.copy(Copy {
            target,
            ..copy.clone()
        })
    });
    let puts = (0..WRITERS).map(|_| {
        let put = Put::new(raced.clone(), "put");
        store.put(put.when(Precondition::Absent))
    });
    let (copied, put) = futures_util::future::join(join_all(copies), join_all(puts)).await;
    let mut winners = Vec::new();
    for (answers, content) in [(copied, "copied"), (put, "put")] {
        for answer in answers {
            match answer?.value {
                PutOutcome::Created { .. } => winners.push(content),
                PutOutcome::Exists | PutOutcome::Conflict => {}
                other => return Err(Violation(format!("a writer was answered {other:?}"))),
            }
        }
    }
    ensure(winners.len() == 1, || format!("{winners:?} have won"))?;
    let wanted = winners[0].as_bytes().to_vec();
    same("content", &content(store, &raced).await?, &wanted)
}

/// An object of `other`, which is the bucket `name` of the same server, is copied into `store`, under a condition too. Not
/// one of [`all`](super::all), as it takes two buckets.
pub async fn copies_from_another_bucket(
    store: &dyn ObjectStore,
    (name, other): (&str, &dyn ObjectStore),
    below: &KeyPrefix,
) -> Verdict {
    let (source, target) = (below.key("source ü+%")?, below.key("target")?);
    write(other, &source, "there").await?;
    let copy = Copy::new(source.clone(), target.clone()).out_of(name);
    let copy = copy.when(Precondition::Absent);
    created(store.copy(copy.clone()).await?.value)?;
    same(
        "content",
        &content(store, &target).await?,
        &b"there".to_vec(),
    )?;
    write(other, &source, "changed").await?;
    let again = store.copy(copy.clone()).await?.value;
    same("second copy", &again, &PutOutcome::Exists)?;
    same(
        "content",
        &content(store, &target).await?,
        &b"there".to_vec(),
    )?;
    store.delete(&[target.into()], None).await?;
    other.delete(&[source.into()], None).await?;
    match store.copy(copy).await {
        Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
        other => Err(Violation(format!("copying nothing came to {other:?}"))),
    }
}

/// Parts become one object, in the order of their numbers; an aborted upload leaves nothing.
pub async fn multipart(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let key = below.key("object")?;
    let metadata: Metadata = [("kind".to_owned(), "parts".to_owned())].into();
    let upload = store.create_multipart(&key, metadata.clone()).await?.value;
    let big = Bytes::from(vec![7; PART_BYTES_MIN as usize]);
    let last = send(store, &key, &upload, 5, Body::from("the end")).await?;
    send(store, &key, &upload, 2, Body::from("replaced below")).await?;
    let first = send(store, &key, &upload, 2, Body::from(big.clone())).await?;
    let absent = store.head(&key).await.optional()?.is_none();
    ensure(absent, || {
        "the object is visible before it is complete".to_owned()
    })?;
    let parts = [first, last];
    let done = store
        .complete_multipart(&key, &upload, &parts, Precondition::None)
        .await?;
    let etag = created(done.value)?;
    let object = store.get(&key, None).await?.value;
    same("size", &object.meta.size, &(PART_BYTES_MIN + 7))?;
    same("tag", &object.meta.etag, &etag)?;
    same("metadata", &object.meta.metadata, &metadata)?;
    let wanted = [&big[..], b"the end"].concat();
    ensure(object.body.into_bytes()[..] == wanted[..], || {
        "the content is not that of the parts".to_owned()
    })?;

    let given_up = below.key("aborted")?;
    let upload = store
        .create_multipart(&given_up, Metadata::new())
        .await?
        .value;
    let part = send(store, &given_up, &upload, 1, Body::from("x")).await?;
    store.abort_multipart(&given_up, &upload).await?;
    let late = store
        .complete_multipart(&given_up, &upload, &[part], Precondition::None)
        .await;
    // A server that fails at it without words of its own may as well be a gateway's.
    let refused = late
        .as_ref()
        .map_or(true, |answer| answer.value == PutOutcome::Unknown);
    ensure(refused, || {
        format!("completing an aborted upload came to {late:?}")
    })?;
    let absent = store.head(&given_up).await.optional()?.is_none();
    ensure(absent, || "an aborted upload left an object".to_owned())
}

/// An upload that may only create finds out at its end that somebody was faster.
pub async fn multipart_condition(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let key = below.key("object")?;
    let upload = store.create_multipart(&key, Metadata::new()).await?.value;
    let part = send(store, &key, &upload, 1, Body::from("parts")).await?;
    write(store, &key, "faster").await?;
    let done = store
        .complete_multipart(
            &key,
            &upload,
            std::slice::from_ref(&part),
            Precondition::Absent,
        )
        .await?;
    same("completion", &done.value, &PutOutcome::Exists)?;
    let found = super::content(store, &key).await?;
    same("content", &found, &b"faster".to_vec())?;
    store.abort_multipart(&key, &upload).await?;
    Ok(())
}

async fn send(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    upload: &UploadId,
    number: u16,
    body: Body,
) -> Result<Part, Violation> {
    match store.upload_part(key, upload, number, body).await?.value {
        PartOutcome::Stored(part) => {
            same("number of the part", &part.number, &number)?;
            Ok(part)
        }
        PartOutcome::Unknown => Err(Violation("the answer for a part was lost".to_owned())),
    }
}
