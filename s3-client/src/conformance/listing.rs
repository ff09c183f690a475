//! Properties of listings: complete, in byte order, and up to date.

use futures_util::future::try_join_all;

use super::{Verdict, content, list_all, same, write};
use crate::KeyPrefix;
use crate::store::{ListRequest, ObjectStore, PAGE_KEYS_MAX};

/// Pages of any length, joined, are the keys in byte order, each once, with size and tag.
pub async fn list_order_and_paging(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let mut names: Vec<String> = (0..23)
        .map(|n| format!("{n}/{:03}", n * 37 % 100))
        .collect();
    names.extend(["0".into(), "Z".into(), "a".into(), "a.b".into(), "~".into()]);
    let mut wanted = Vec::new();
    for name in &names {
        let key = below.key(name)?;
        write(store, &key, name.clone().into_bytes()).await?;
        wanted.push(key.as_str().to_owned());
    }
    wanted.sort();
    for keys_max in [1, 7, wanted.len(), PAGE_KEYS_MAX] {
        let what = format!("keys in pages of {keys_max}");
        same(
            &what,
            &list_all(store, below, None, keys_max).await?,
            &wanted,
        )?;
    }
    let page = store.list(&ListRequest::new(below.clone())).await?.value;
    for entry in page.entries {
        let meta = store.head(&entry.key).await?.value;
        same("listed size", &entry.size, &meta.size)?;
        same("listed tag", &entry.etag, &meta.etag)?;
    }
    Ok(())
}

/// A listing starts after the text it is told, whether or not that is a key.
pub async fn list_start_after(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    for name in ["b", "d", "d/x", "f"] {
        write(store, &below.key(name)?, "x").await?;
    }
    for (after, wanted) in [
        ("a", vec!["b", "d", "d/x", "f"]),
        ("b", vec!["d", "d/x", "f"]),
        ("c", vec!["d", "d/x", "f"]),
        ("d", vec!["d/x", "f"]),
        ("d/", vec!["d/x", "f"]),
        ("e", vec!["f"]),
        ("f", vec![]),
    ] {
        let wanted: Vec<String> = wanted.iter().map(|name| format!("{below}{name}")).collect();
        let start = Some(format!("{below}{after}"));
        let what = format!("keys after '{after}'");
        same(&what, &list_all(store, below, start, 2).await?, &wanted)?;
    }
    Ok(())
}

/// A prefix keeps its neighbours out, and a key may also be a folder.
pub async fn list_neighbours(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    for name in [
        "vm/10",
        "vm/10/a",
        "vm/10/a/b",
        "vm/100/a",
        "vm/1/a",
        "vm/10.a",
    ] {
        write(store, &below.key(name)?, name.as_bytes().to_vec()).await?;
    }
    let folder = below.child("vm")?.child("10")?;
    let wanted = vec![format!("{below}vm/10/a"), format!("{below}vm/10/a/b")];
    same(
        "keys below vm/10/",
        &list_all(store, &folder, None, 1).await?,
        &wanted,
    )?;
    for name in ["vm/10", "vm/10/a", "vm/10/a/b"] {
        let found = content(store, &below.key(name)?).await?;
        same("content", &found, &name.as_bytes().to_vec())?;
    }
    store.delete(&[below.key("vm/10/a")?.into()], None).await?;
    same(
        "keys after a deletion",
        &list_all(store, &folder, None, 9).await?,
        &wanted[1..].to_vec(),
    )
}

/// A listing shows what was written before it began, and nothing that was deleted before (A2).
pub async fn list_after_write_and_delete(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    for round in 0..5 {
        let keys = (0..8)
            .map(|n| below.key(&format!("{round}-{n}")))
            .collect::<Result<Vec<_>, _>>()?;
        try_join_all(keys.iter().map(|key| write(store, key, "x"))).await?;
        let wanted: Vec<String> = keys.iter().map(|key| key.as_str().to_owned()).collect();
        same(
            "keys after writing",
            &list_all(store, below, None, 3).await?,
            &wanted,
        )?;
        for key in keys {
            store.delete(&[key.into()], None).await?;
        }
        same(
            "keys after deleting",
            &list_all(store, below, None, 3).await?,
            &Vec::new(),
        )?;
    }
    Ok(())
}

/// Any printable character may be in a key, and a key may be 1024 bytes long.
pub async fn keys_with_odd_characters(store: &dyn ObjectStore, below: &KeyPrefix) -> Verdict {
    let mut names: Vec<String> = [
        "a b",
        " a",
        "a ",
        "a+b",
        "a%b",
        "a%2Fb",
        "a%20b",
        "ü",
        "日本",
        "🦀",
        "a&b",
        "a<b>",
        "a\"b",
        "a'b",
        "a\\b",
        "a:b",
        "a*b?",
        "a#b",
        "a=b;c",
        "a@b",
        "a^b`",
        "{a}|[b]",
        "a~b",
        "..a",
        "a..",
        "-",
        "_",
        "(1)!",
        "$x,y",
        "2025-01-02T03:04:05Z",
    ]
    .map(str::to_owned)
    .into();
    let long = crate::KEY_BYTES_MAX.saturating_sub(below.as_str().len());
    names.push("l".repeat(long));
    let mut wanted = Vec::new();
    for name in &names {
        let key = below.key(name)?;
        write(store, &key, name.clone().into_bytes()).await?;
        wanted.push(key.as_str().to_owned());
    }
    for name in &names {
        let found = content(store, &below.key(name)?).await?;
        same("content", &found, &name.clone().into_bytes())?;
    }
    wanted.sort();
    same("keys", &list_all(store, below, None, 4).await?, &wanted)?;
    let requests: Vec<_> = names
        .iter()
        .map(|name| below.key(name).map(Into::into))
        .collect::<Result<_, _>>()?;
    for request in requests.chunks(1) {
        store.delete(request, None).await?;
    }
    same(
        "keys left",
        &list_all(store, below, None, 9).await?,
        &Vec::new(),
    )
}
