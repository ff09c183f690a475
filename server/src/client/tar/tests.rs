//! Tests of tar archives.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt as _, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::client::progress::Progress;

fn archived(root: &Path, options: &ArchiveOptions) -> (Vec<u8>, Progress) {
    let progress = Progress::silent();
    let mut stream = Vec::new();
    archive(root, options, &mut stream, &progress).expect("an archive");
    (stream, progress)
}

fn extracted(stream: &[u8], target: &Path) -> Progress {
    let progress = Progress::silent();
    extract(stream, target, ExtractOptions::default(), &progress).expect("a restore");
    progress
}

/// Sets a time with nanoseconds on a file or link.
fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let time = nix::sys::time::TimeSpec::new(seconds, nanos);
    let flag = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
    nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, flag).unwrap();
}

/// What must be equal of a file: everything but its inode, and the first of its names.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    size: u64,
    names: u64,
    device: u64,
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    same_as: PathBuf,
}

fn seen(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut first_names = BTreeMap::new();
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry.unwrap();
        let path = entry.path();
        let relative = path.strip_prefix(root).unwrap().to_owned();
        let stat = fs::symlink_metadata(path).unwrap();
        let content = if stat.is_file() {
            fs::read(path).unwrap()
        } else if stat.is_symlink() {
            fs::read_link(path).unwrap().into_os_string().into_vec()
        } else {
            Vec::new()
        };
        let xattrs = xattr::list(path).unwrap().map(|name| {
            let value = xattr::get(path, &name).unwrap().unwrap();
            (name.into_vec(), value)
        });
        let same_as = first_names
            .entry(stat.ino())
            .or_insert_with(|| relative.clone())
            .clone();
        let is_directory = stat.is_dir();
        found.insert(
            relative,
            Seen {
                mode: stat.mode(),
                owner: (stat.uid(), stat.gid()),
                mtime: (stat.mtime(), stat.mtime_nsec()),
                size: if is_directory { 0 } else { stat.size() },
                names: if is_directory { 0 } else { stat.nlink() },
                device: stat.rdev(),
                content,
                xattrs: xattrs.collect(),
                same_as,
            },
        );
    }
    found
}

/// A POSIX ACL as Linux stores it: owner rw, user 1000 r, group r, mask r, others nothing.
fn acl() -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (1u16, 6u16, u32::MAX),
        (2, 4, 1000),
        (4, 4, u32::MAX),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        value.extend(
            tag.to_le_bytes()
                .iter()
                .chain(&permissions.to_le_bytes())
                .chain(&id.to_le_bytes()),
        );
    }
    value
}

/// One of everything that a file system holds.
fn tree_of_everything(root: &Path) {
    let is_root = nix::unistd::geteuid().is_root();
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/plain"), b"content").unwrap();
    fs::write(root.join("a/empty"), b"").unwrap();
    fs::write(root.join("block"), vec![7; 512]).unwrap();
    fs::write(
        root.join("large"),
        (0..3_000_001u32)
            .map(|n| n as u8 ^ (n >> 8) as u8)
            .collect::<Vec<_>>(),
    )
    .unwrap();
    fs::hard_link(root.join("a/plain"), root.join("a/b/second")).unwrap();
    fs::hard_link(root.join("a/plain"), root.join("third")).unwrap();
    std::os::unix::fs::symlink("../nowhere at all", root.join("link")).unwrap();
    std::os::unix::fs::symlink("x".repeat(300), root.join("long link")).unwrap();
    fs::write(root.join("n".repeat(255)), b"long name").unwrap();
    let deep = root.join("d".repeat(200)).join("e".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join(OsStr::from_bytes(b"\xff\xfe not utf-8")), b"deep").unwrap();
    fs::hard_link(
        deep.join(OsStr::from_bytes(b"\xff\xfe not utf-8")),
        root.join("zz to deep"),
    )
    .unwrap();
    fs::write(root.join(OsStr::from_bytes(b"bad\xc3name\n")), b"odd").unwrap();
    nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();

    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"in the middle", 8 << 20).unwrap();
    sparse.set_len(64 << 20).unwrap();
    fs::File::create(root.join("hole only"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let start = fs::File::create(root.join("sparse start")).unwrap();
    start.write_all_at(b"at the end", (4 << 20) - 10).unwrap();

    xattr::set(root.join("a/plain"), "user.colour", b"blue").unwrap();
    xattr::set(root.join("a"), "user.a=b%3D", b"\0\n=\xff").unwrap();
    xattr::set(root.join("block"), "user.large", &[b'x'; 3000]).unwrap();
    xattr::set(root.join("large"), "system.posix_acl_access", &acl()).unwrap();
    xattr::set(root.join("a/b"), "system.posix_acl_default", &acl()).unwrap();
    if is_root {
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o640);
        let device = nix::sys::stat::makedev(1, 700);
        nix::sys::stat::mknod(
            &root.join("null"),
            nix::sys::stat::SFlag::S_IFCHR,
            mode,
            device,
        )
        .unwrap();
        std::os::unix::fs::chown(root.join("block"), Some(3_000_000), Some(4_000_000_000)).unwrap();
        std::os::unix::fs::lchown(root.join("link"), Some(12), Some(34)).unwrap();
        xattr::set(root.join("link"), "trusted.on-link", b"1").unwrap();
    }
    fs::set_permissions(root.join("block"), fs::Permissions::from_mode(0o4751)).unwrap();
    // Others than root could not read it.
    let mode = if is_root { 0o000 } else { 0o400 };
    fs::set_permissions(root.join("a/empty"), fs::Permissions::from_mode(mode)).unwrap();
    fs::set_permissions(root.join("fifo"), fs::Permissions::from_mode(0o666)).unwrap();
    set_time(&root.join("a/plain"), 1_700_000_000, 123_456_789);
    set_time(&root.join("link"), 1_500_000_000, 1);
    set_time(&root.join("block"), -12, 250_000_000);
    set_time(&root.join("fifo"), 9_999_999_999, 5);
    fs::set_permissions(root.join("a/b"), fs::Permissions::from_mode(0o555)).unwrap();
    set_time(&root.join("a/b"), 1_400_000_000, 0);
    set_time(&root.join("a"), 1_300_000_000, 999_999_999);
    fs::set_permissions(root, fs::Permissions::from_mode(0o1750)).unwrap();
    set_time(root, 1_200_000_000, 42);
}

#[test]
fn everything_survives() {
    let directory = tempfile::tempdir().unwrap();
    let (source, target) = (
        directory.path().join("source"),
        directory.path().join("target"),
    );
    tree_of_everything(&source);
    let before = seen(&source);
    let (stream, progress) = archived(&source, &ArchiveOptions::default());
    assert_eq!(progress.kept(), Vec::<String>::new());
    assert!(
        stream.len() < 8 << 20,
        "holes were stored: {} bytes",
        stream.len()
    );
    assert_eq!(stream.len() % BLOCK, 0);

    let progress = extracted(&stream, &target);
    assert_eq!(progress.kept(), Vec::<String>::new());
    let after = seen(&target);
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
    for (path, wanted) in &before {
        assert!(
            *wanted == after[path],
            "{}: {wanted:?} became {:?}",
            path.display(),
            after[path]
        );
    }
    for name in ["sparse", "hole only", "sparse start"] {
        let stat = fs::metadata(target.join(name)).unwrap();
        assert!(
            stat.blocks() * 512 < stat.size(),
            "{name} has no holes any more"
        );
    }
    assert_eq!(
        archived(&target, &ArchiveOptions::default()).0,
        stream,
        "the stream depends on more than the tree"
    );
}

#[test]
fn gnu_tar_reads_it() {
    let directory = tempfile::tempdir().unwrap();
    let (source, target) = (
        directory.path().join("source"),
        directory.path().join("target"),
    );
    tree_of_everything(&source);
    let (stream, _) = archived(&source, &ArchiveOptions::default());
    let file = directory.path().join("x.tar");
    fs::write(&file, &stream).unwrap();
    let Ok(listing) = Command::new("tar")
        .arg("--quoting-style=literal")
        .arg("-tf")
        .arg(&file)
        .output()
    else {
        return;
    };
    assert!(
        listing.status.success() && listing.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&listing.stderr)
    );
    let mut wanted = Vec::new();
    for (path, entry) in seen(&source) {
        let path = path.into_os_string().into_vec();
        wanted.extend_from_slice(if path.is_empty() { b"." } else { &path });
        wanted.extend_from_slice(if entry.mode & 0o170_000 == 0o040_000 {
            b"/\n"
        } else {
            b"\n"
        });
    }
    let lines = |bytes: &[u8]| {
        let mut lines: Vec<_> = bytes.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(&listing.stdout), lines(&wanted));

    fs::create_dir(&target).unwrap();
    let restored = Command::new("tar")
        .arg("-C")
        .arg(&target)
        .arg("-xpf")
        .arg(&file)
        .output()
        .unwrap();
    assert!(
        restored.status.success(),
        "{}",
        String::from_utf8_lossy(&restored.stderr)
    );
    let after = seen(&target);
    for (path, wanted) in seen(&source) {
        let found = &after[&path];
        assert_eq!(
            (
                wanted.mode,
                wanted.owner,
                wanted.mtime,
                wanted.size,
                wanted.same_as
            ),
            (
                found.mode,
                found.owner,
                found.mtime,
                found.size,
                found.same_as.clone()
            ),
            "{}",
            path.display()
        );
        assert!(
            wanted.content == found.content,
            "{} has other content",
            path.display()
        );
    }
}

#[test]
fn archives_of_gnu_tar_are_restored() {
    for format in ["gnu", "posix", "ustar", "v7"] {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) = (
            directory.path().join("source"),
            directory.path().join("target"),
        );
        fs::create_dir_all(source.join("d")).unwrap();
        fs::write(source.join("d/file"), b"content").unwrap();
        fs::hard_link(source.join("d/file"), source.join("hard")).unwrap();
        std::os::unix::fs::symlink("d/file", source.join("soft")).unwrap();
        set_time(&source.join("d/file"), 1_600_000_000, 0);
        let sparse_too = format != "ustar" && format != "v7";
        if sparse_too {
            fs::write(source.join("n".repeat(150)), b"long").unwrap();
            let sparse = fs::File::create(source.join("sparse")).unwrap();
            for at in 0..40u64 {
                sparse.write_all_at(&[at as u8; 4096], at << 20).unwrap();
            }
            sparse.set_len(50 << 20).unwrap();
        }
        let mut command = Command::new("tar");
        command.arg(format!("--format={format}"));
        if sparse_too {
            command.arg("-S");
        }
        command.arg("-C").arg(&source).args(["-cf", "-", "."]);
        let Ok(made) = command.output() else { return };
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let progress = extracted(&made.stdout, &target);
        assert_eq!(progress.kept(), Vec::<String>::new(), "{format}");
        for (path, wanted) in seen(&source) {
            let found = &seen(&target)[&path];
            assert!(
                wanted.content == found.content && wanted.mode == found.mode,
                "{format}: {}",
                path.display()
            );
            assert_eq!(wanted.same_as, found.same_as, "{format}");
        }
        if sparse_too {
            assert!(
                fs::metadata(target.join("sparse")).unwrap().blocks() * 512 < 10 << 20,
                "{format}"
            );
        }
    }
}

#[test]
fn excluded_and_unreadable_things_are_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for path in [
        "keep/a.txt",
        "keep/b.o",
        "target/x",
        "deep/target/y",
        "deep/cache/z",
    ] {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), path).unwrap();
    }
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let excludes = Excludes::parse(&["*.o", "/target", "cache/"]).unwrap();
    let (stream, progress) = archived(
        root,
        &ArchiveOptions {
            excludes,
            one_file_system: true,
        },
    );
    assert_eq!(progress.warnings(), 0);
    assert_eq!(progress.kept(), ["socket: a socket, left out"]);
    assert_eq!(
        names_in(&stream),
        [
            ".",
            "deep",
            "deep/target",
            "deep/target/y",
            "keep",
            "keep/a.txt"
        ]
    );
}

fn names_in(stream: &[u8]) -> Vec<String> {
    let mut members = stream::Members::new(stream);
    let mut names = Vec::new();
    while let Some(next) = members.next().unwrap() {
        match next {
            stream::Next::Member(member) => names.push(shown(&member.path)),
            stream::Next::Unusable(what) => panic!("{what}"),
        }
    }
    names
}

#[test]
fn a_tree_deeper_than_the_open_directories_is_walked_and_restored() {
    let directory = tempfile::tempdir().unwrap();
    let (source, target) = (directory.path().join("s"), directory.path().join("t"));
    let mut path = source.clone();
    for depth in 0..200 {
        path.push(format!("d{depth}"));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("z-after"), depth.to_string()).unwrap();
    }
    let (stream, progress) = archived(&source, &ArchiveOptions::default());
    assert_eq!(progress.kept(), Vec::<String>::new());
    extracted(&stream, &target);
    assert!(seen(&source) == seen(&target));
}

/// Gives way to `hook` once, when `after` bytes have been written.
struct Tampering<F> {
    stream: Vec<u8>,
    after: usize,
    hook: Option<F>,
}

impl<F: FnOnce()> std::io::Write for Tampering<F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.extend_from_slice(bytes);
        if self.stream.len() >= self.after
            && let Some(hook) = self.hook.take()
        {
            hook();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn files_that_change_while_they_are_read_warn_and_keep_the_announced_size() {
    for (shrink, wanted) in [
        (true, "shrank while it was read"),
        (false, "changed while it was read"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) = (directory.path().join("s"), directory.path().join("t"));
        fs::create_dir(&source).unwrap();
        let file = source.join("file");
        fs::write(&file, vec![1; 3 << 20]).unwrap();
        fs::write(source.join("later"), b"intact").unwrap();
        let hook = || {
            let file = fs::OpenOptions::new().write(true).open(&file).unwrap();
            if shrink {
                file.set_len(5 << 18).unwrap();
            } else {
                file.write_all_at(&[2; 100], 4 << 20).unwrap();
            }
        };
        let mut output = Tampering {
            stream: Vec::new(),
            after: (1 << 20) + 1024,
            hook: Some(hook),
        };
        let progress = Progress::silent();
        archive(&source, &ArchiveOptions::default(), &mut output, &progress).unwrap();
        assert_eq!(progress.warnings(), 1);
        assert!(progress.kept()[0].contains(wanted), "{:?}", progress.kept());
        extracted(&output.stream, &target);
        assert_eq!(fs::metadata(target.join("file")).unwrap().len(), 3 << 20);
        assert_eq!(fs::read(target.join("later")).unwrap(), b"intact");
    }
}

#[test]
fn a_failing_output_ends_the_walk() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let result = archive(
        directory.path(),
        &ArchiveOptions::default(),
        &mut Full,
        &Progress::silent(),
    );
    assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
}

mod hostile;

/// What becomes of the names `a` and `z` of one file, with `act` between the two.
fn names_of_one_file(act: &dyn Fn(&Path)) -> (Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a"), "before").unwrap();
    fs::write(source.join("m"), "halfway").unwrap();
    fs::hard_link(source.join("a"), source.join("z")).unwrap();
    set_time(&source.join("a"), 1_000_000_000, 0);
    let (stream, progress) = archived(&source, &ArchiveOptions::default());
    let mut output = Tampering {
        stream: Vec::new(),
        after: stream
            .windows(7)
            .position(|part| part == b"halfway")
            .unwrap(),
        hook: Some(|| act(&source)),
    };
    archive(&source, &ArchiveOptions::default(), &mut output, &progress).expect("an archive");
    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    extracted(&output.stream, &target);
    let content = |name: &str| fs::read(target.join(name)).unwrap();
    (content("a"), content("z"))
}

#[test]
fn a_name_is_a_link_only_to_what_was_archived() {
    let both = |text: &str| (b"before".to_vec(), text.as_bytes().to_vec());
    assert_eq!(names_of_one_file(&|_| {}), both("before"));
    let rewritten = names_of_one_file(&|source| fs::write(source.join("z"), "behind").unwrap());
    assert_eq!(rewritten, both("behind"));
    // Another file in its place, with one name and maybe the same inode: nothing of it may be taken for the first.
    let replaced = names_of_one_file(&|source| {
        fs::remove_file(source.join("a")).unwrap();
        fs::write(source.join("z"), "behind").unwrap();
        set_time(&source.join("z"), 1_000_000_000, 0);
    });
    assert_eq!(replaced, both("behind"));
}
