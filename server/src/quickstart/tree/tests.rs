//! Trees that are equal, and trees that differ in one thing.

use std::os::unix::fs::PermissionsExt as _;

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::*;

const TIME: i64 = 1_700_000_000;

fn set_time(path: &Path, nanos: i64) {
    let time = TimeSpec::new(TIME, nanos);
    let flag = UtimensatFlags::NoFollowSymlink;
    utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, flag).expect("a time");
}

/// One of everything that anybody may create, all with one time.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("a/b")).expect("a directory");
    fs::write(root.join("a/plain"), vec![7; BLOCK_BYTES + 3]).expect("a file");
    fs::write(root.join("a/b/empty"), b"").expect("a file");
    fs::hard_link(root.join("a/plain"), root.join("twin")).expect("a link");
    std::os::unix::fs::symlink("a/plain", root.join("link")).expect("a link");
    fs::set_permissions(root.join("a/plain"), fs::Permissions::from_mode(0o640)).expect("a mode");
    settle(root);
}

fn settle(root: &Path) {
    for entry in walkdir::WalkDir::new(root).contents_first(true) {
        set_time(entry.expect("an entry").path(), 5);
    }
}

/// The difference after `change` was made in one of two equal trees.
fn after(change: impl FnOnce(&Path)) -> Comparison {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (left, right) = (dir.path().join("left"), dir.path().join("right"));
    tree(&left);
    tree(&right);
    change(&right);
    compare(&left, &right, &Excludes::default()).expect("a comparison")
}

#[test]
fn equal_trees_are_equal() {
    let found = after(|_| ());
    assert_eq!((found.compared, found.described.clone()), (7, vec![]));
    assert!(found.is_equal());
    // Both names of one file are read.
    assert_eq!(found.bytes, 2 * (BLOCK_BYTES as u64 + 3));
}

#[test]
fn each_difference_is_found_and_named() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 9] = [
        ("a/plain: its content differs from byte 262145 on", |root| {
            let mut content = vec![7; BLOCK_BYTES + 3];
            content[BLOCK_BYTES + 1] = 8;
            fs::write(root.join("a/plain"), content).expect("written");
            settle(root);
        }),
        ("a/b/empty: its size was 0 and is 1", |root| {
            fs::write(root.join("a/b/empty"), b"x").expect("written");
            settle(root);
        }),
        ("a/plain: its mode was 640 and is 600", |root| {
            let mode = fs::Permissions::from_mode(0o600);
            fs::set_permissions(root.join("a/plain"), mode).expect("a mode");
        }),
        (
            "link: its time was 1700000000.000000005 and is 1700000000.000000006",
            |root| set_time(&root.join("link"), 6),
        ),
        ("link: points somewhere else", |root| {
            fs::remove_file(root.join("link")).expect("removed");
            std::os::unix::fs::symlink("a/other", root.join("link")).expect("a link");
            settle(root);
        }),
        ("twin: is missing from what was restored", |root| {
            fs::remove_file(root.join("twin")).expect("removed");
            settle(root);
        }),
        (
            "a/b/more: was restored, but is not in the original",
            |root| {
                fs::create_dir(root.join("a/b/more")).expect("a directory");
                settle(root);
            },
        ),
        ("a/b/empty: is another kind of file", |root| {
            fs::remove_file(root.join("a/b/empty")).expect("removed");
            fs::create_dir(root.join("a/b/empty")).expect("a directory");
            settle(root);
        }),
        ("is another name of another file", |root| {
            fs::remove_file(root.join("twin")).expect("removed");
            fs::copy(root.join("a/plain"), root.join("twin")).expect("copied");
            settle(root);
        }),
    ];
    for (expected, change) in changes {
        let found = after(change);
        assert!(!found.is_equal(), "{expected}");
        assert!(
            found.described.iter().any(|text| text.contains(expected)),
            "{expected}: {found:?}"
        );
    }
}

#[test]
fn excluded_names_are_left_aside_on_both_sides() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (left, right) = (dir.path().join("left"), dir.path().join("right"));
    tree(&left);
    tree(&right);
    fs::create_dir(left.join("target")).expect("a directory");
    fs::write(left.join("target/big"), vec![0; 1000]).expect("a file");
    settle(&left);
    let excludes = Excludes::parse(&["/target"]).expect("patterns");
    let found = compare(&left, &right, &excludes).expect("a comparison");
    assert!(found.is_equal(), "{found:?}");
    let all = measure(&left, &Excludes::default()).expect("measured");
    let some = measure(&left, &excludes).expect("measured");
    assert_eq!(all.entries, some.entries + 2);
    assert_eq!(all.bytes, some.bytes + 1000);
    assert_eq!(
        some.bytes,
        BLOCK_BYTES as u64 + 3,
        "a file with two names counts once"
    );
}

#[test]
fn only_the_first_differences_are_described() {
    let mut found = Comparison::default();
    for n in 0..25 {
        found.differs(Path::new(&format!("f{n}")), "differs");
    }
    let mut sum = Comparison::default();
    sum.add(found.clone());
    sum.add(found);
    assert_eq!((sum.different, sum.described.len()), (50, DESCRIBED_MAX));
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_difference() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let missing = dir.path().join("missing");
    let fault = compare(dir.path(), &missing, &Excludes::default()).unwrap_err();
    assert!(format!("{fault:#}").contains("missing cannot be read"));
    assert!(measure(&missing, &Excludes::default()).is_err());
}
