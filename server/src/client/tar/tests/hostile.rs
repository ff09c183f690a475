//! Archives that try to do harm, and damaged ones.

use std::os::unix::ffi::OsStringExt;

use super::*;

/// Name, kind and content.
type Entry<'a> = (&'a str, Kind, &'a [u8]);

fn made_of(entries: &[Entry]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (path, kind, content) in entries {
        let member = Member {
            path: path.as_bytes().to_vec(),
            kind: kind.clone(),
            mode: if *kind == Kind::Directory {
                0o755
            } else {
                0o644
            },
            uid: u64::from(nix::unistd::geteuid().as_raw()),
            gid: u64::from(nix::unistd::getegid().as_raw()),
            mtime: Mtime {
                seconds: 1,
                nanos: 0,
            },
            xattrs: Vec::new(),
        };
        stream.extend(header::encode(&member).unwrap());
        stream.extend_from_slice(content);
        stream.resize(stream.len().next_multiple_of(BLOCK), 0);
    }
    stream.resize(stream.len() + 2 * BLOCK, 0);
    stream
}

const FILE: Kind = Kind::File {
    size: 4,
    extents: None,
};

#[test]
fn nothing_is_written_outside_the_target() {
    let directory = tempfile::tempdir().unwrap();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), b"precious").unwrap();
    let to_outside = || Kind::Symlink(outside.as_os_str().as_bytes().to_vec());
    let precious = outside.join("precious").into_os_string().into_vec();
    let up = || Kind::HardLink(b"../outside/precious".to_vec());
    let attacks: Vec<(&str, Vec<Entry>)> = vec![
        ("dots", vec![("../outside/new", FILE, b"evil")]),
        ("dots within", vec![("a/../../outside/new", FILE, b"evil")]),
        (
            "dots in a directory",
            vec![("../outside/new", Kind::Directory, b"")],
        ),
        (
            "through a link",
            vec![("l", to_outside(), b""), ("l/new", FILE, b"evil")],
        ),
        (
            "over a file through a link",
            vec![("l", to_outside(), b""), ("l/precious", FILE, b"evil")],
        ),
        (
            "directory below a link",
            vec![("l", to_outside(), b""), ("l/new", Kind::Directory, b"")],
        ),
        (
            "link as a directory",
            vec![
                ("l", to_outside(), b""),
                ("l", Kind::Directory, b""),
                ("l/precious", FILE, b"evil"),
            ],
        ),
        (
            "into a link",
            vec![("f", Kind::Symlink(precious), b""), ("f", FILE, b"evil")],
        ),
        ("hard link up", vec![("h", up(), b""), ("h", FILE, b"evil")]),
        (
            "hard link through a link",
            vec![
                ("l", to_outside(), b""),
                ("h", Kind::HardLink(b"l/precious".to_vec()), b""),
                ("h", FILE, b"evil"),
            ],
        ),
    ];
    for (name, entries) in attacks {
        let target = directory.path().join("target");
        extracted(&made_of(&entries), &target);
        assert_eq!(
            fs::read(outside.join("precious")).unwrap(),
            b"precious",
            "{name}"
        );
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{name}");
        assert_eq!(
            fs::metadata(&outside).unwrap().mode() & 0o7777,
            0o755,
            "{name}"
        );
        assert_eq!(
            fs::metadata(outside.join("precious")).unwrap().nlink(),
            1,
            "{name}"
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "{name}");
        fs::remove_dir_all(&target).unwrap();
    }
}

#[test]
fn absolute_names_become_relative_and_bad_entries_warn() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("t");
    let stream = made_of(&[
        ("/etc//./passwd", FILE, b"root"),
        ("../up", FILE, b"evil"),
        ("gone", Kind::HardLink(b"never stored".to_vec()), b""),
        ("last", FILE, b"last"),
        ("last", FILE, b"wins"),
    ]);
    let progress = extracted(&stream, &target);
    assert_eq!(fs::read(target.join("etc/passwd")).unwrap(), b"root");
    assert_eq!(fs::read(target.join("last")).unwrap(), b"wins");
    assert_eq!(progress.warnings(), 2, "{:?}", progress.kept());
    assert!(!target.join("gone").exists());
}

#[test]
fn a_target_that_is_not_empty_needs_leave_to_overwrite() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path();
    fs::create_dir(target.join("d")).unwrap();
    fs::write(target.join("d/mine"), b"mine").unwrap();
    fs::write(target.join("d/theirs"), b"old").unwrap();
    fs::hard_link(target.join("d/theirs"), target.join("d/other name")).unwrap();
    let stream = made_of(&[("d", Kind::Directory, b""), ("d/theirs", FILE, b"new!")]);
    let refused = extract(
        &stream[..],
        target,
        ExtractOptions::default(),
        &Progress::silent(),
    )
    .unwrap_err();
    assert!(refused.to_string().contains("--overwrite"), "{refused}");
    assert_eq!(fs::read(target.join("d/theirs")).unwrap(), b"old");

    extract(
        &stream[..],
        target,
        ExtractOptions { overwrite: true },
        &Progress::silent(),
    )
    .unwrap();
    assert_eq!(fs::read(target.join("d/theirs")).unwrap(), b"new!");
    assert_eq!(
        fs::read(target.join("d/other name")).unwrap(),
        b"old",
        "a file was written into, not replaced"
    );
    assert_eq!(fs::read(target.join("d/mine")).unwrap(), b"mine");
}

#[test]
fn damaged_streams_end_in_an_error_or_a_restore_never_a_panic() {
    let directory = tempfile::tempdir().unwrap();
    let extents = Some(vec![Extent {
        offset: 4096,
        length: 4,
    }]);
    let mut sparse = made_of(&[
        ("d", Kind::Directory, b""),
        ("d/f", FILE, b"data"),
        (
            "sparse",
            Kind::File {
                size: 9000,
                extents,
            },
            b"data",
        ),
    ]);
    sparse.truncate(sparse.len() - 2 * BLOCK);
    for length in (1..sparse.len())
        .filter(|length| length % BLOCK != 0)
        .step_by(37)
    {
        let target = directory.path().join("cut");
        let result = extract(
            &sparse[..length],
            &target,
            ExtractOptions::default(),
            &Progress::silent(),
        );
        let kind = result.expect_err("a stream that ends early").kind();
        assert_eq!(kind, std::io::ErrorKind::UnexpectedEof, "cut at {length}");
        fs::remove_dir_all(&target).unwrap();
    }
    for at in 0..sparse.len() {
        let mut broken = sparse.clone();
        broken[at] ^= 0x90;
        let mut members = stream::Members::new(&broken[..]);
        while let Ok(Some(_)) = members.next() {}
    }
}
