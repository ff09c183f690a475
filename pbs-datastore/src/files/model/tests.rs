//! The model against the real thing, and what it does that no real thing can be asked to do.

use proptest::prelude::*;

use super::*;
use crate::files::{DirEntry, FILE_MODE, Files, OsFiles, replace};

/// What can be done to four names in two directories.
#[derive(Clone, Debug)]
enum Act {
    Create(usize, Vec<u8>),
    WriteAt(usize, u8, Vec<u8>),
    SetLen(usize, u8),
    Rename(usize, usize),
    Unlink(usize),
    Times(usize, i64),
    Read(usize),
    List(usize),
    RemoveDir(usize),
    RemoveTree(usize),
    CreateDir(usize),
}

const NAMES: [&str; 4] = ["a/one", "a/two", "b/one", "b/two"];
const DIRS: [&str; 2] = ["a", "b"];

fn act() -> impl Strategy<Value = Act> {
    let name = 0..NAMES.len();
    let content = prop::collection::vec(any::<u8>(), 0..9);
    prop_oneof![
        (name.clone(), content.clone()).prop_map(|(n, c)| Act::Create(n, c)),
        (name.clone(), 0..12u8, content).prop_map(|(n, at, c)| Act::WriteAt(n, at, c)),
        (name.clone(), 0..12u8).prop_map(|(n, len)| Act::SetLen(n, len)),
        (name.clone(), name.clone()).prop_map(|(a, b)| Act::Rename(a, b)),
        name.clone().prop_map(Act::Unlink),
        (name.clone(), 1..1_000_000i64).prop_map(|(n, t)| Act::Times(n, t)),
        name.prop_map(Act::Read),
        (0..2usize).prop_map(Act::List),
        (0..2usize).prop_map(Act::RemoveDir),
        (0..2usize).prop_map(Act::RemoveTree),
        (0..2usize).prop_map(Act::CreateDir),
    ]
}

/// Does it, and says what came of it in words that do not depend on the file system.
fn perform(files: &dyn Files, root: &Path, act: &Act) -> String {
    let name = |n: &usize| root.join(NAMES[*n]);
    let dir = |n: &usize| root.join(DIRS[*n]);
    let done = |result: io::Result<()>| match result {
        Ok(()) => "done".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    };
    match act {
        Act::Create(n, content) => {
            let parts = [Bytes::copy_from_slice(content)];
            done(files.create(&name(n), FILE_MODE, &parts, false))
        }
        Act::WriteAt(n, at, content) => done(files.write_at(&name(n), u64::from(*at), content)),
        Act::SetLen(n, len) => done(files.set_len(&name(n), u64::from(*len))),
        Act::Rename(from, to) => done(files.rename(&name(from), &name(to))),
        Act::Unlink(n) => done(files.unlink(&name(n))),
        Act::Times(n, seconds) => {
            let time = Timestamp::from_second(*seconds).unwrap();
            let set = files.set_times(&name(n), time, time);
            let stat = files
                .stat(&name(n))
                .map(|stat| (stat.atime, stat.mtime, stat.size));
            format!("{} {:?}", done(set), stat.map_err(|error| error.kind()))
        }
        Act::Read(n) => format!("{:?}", files.read(&name(n)).map_err(|error| error.kind())),
        Act::List(n) => {
            let list = files.list(&dir(n)).map_err(|error| error.kind());
            let shown = list.map(|list| {
                let entry = |entry: DirEntry| (entry.name, entry.stat.size, entry.stat.is_dir);
                list.into_iter().map(entry).collect::<Vec<_>>()
            });
            format!("{shown:?}")
        }
        Act::RemoveDir(n) => done(files.remove_dir(&dir(n))),
        Act::RemoveTree(n) => done(files.remove_tree(&dir(n))),
        Act::CreateDir(n) => done(files.create_dirs(&dir(n))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn the_model_answers_as_a_real_file_system(acts in prop::collection::vec(act(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let model = ModelDisk::new().mount();
        for name in DIRS {
            OsFiles.create_dirs(&dir.path().join(name)).unwrap();
            model.create_dirs(&Path::new("/disk").join(name)).unwrap();
        }
        for act in &acts {
            let real = perform(&OsFiles, dir.path(), act);
            let modelled = perform(&*model, Path::new("/disk"), act);
            prop_assert_eq!(real, modelled, "{:?}", act);
        }
    }
}

fn path(name: &str) -> PathBuf {
    Path::new("/d").join(name)
}

fn mounted(disk: &ModelDisk) -> Arc<ModelFiles> {
    let files = disk.mount();
    files.create_dirs(Path::new("/d")).unwrap();
    files
}

#[test]
fn a_replaced_file_survives_a_power_loss_whole_and_an_unsynced_one_need_not() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = ModelDisk::new();
        let files = mounted(&disk);
        replace(
            &*files,
            Path::new("/d/tmp"),
            &path("safe"),
            &["old".into()],
            "1",
        )
        .unwrap();
        replace(
            &*files,
            Path::new("/d/tmp"),
            &path("safe"),
            &["new".into()],
            "2",
        )
        .unwrap();
        files
            .create(&path("loose"), FILE_MODE, &["content".into()], false)
            .unwrap();
        files.die();
        disk.lose_power(seed);
        let files = disk.mount();
        assert_eq!(files.read(&path("safe")).unwrap(), "new");
        lost += usize::from(
            files
                .read(&path("loose"))
                .is_ok_and(|content| content != "content"),
        );
        lost += usize::from(files.read(&path("loose")).is_err());
    }
    assert!((5..50).contains(&lost), "{lost}");
}

#[test]
fn a_removal_that_was_not_synced_may_be_undone() {
    let undone = |sync: bool| {
        let after = |seed| {
            let disk = ModelDisk::new();
            let files = mounted(&disk);
            files
                .create(&path("marker"), FILE_MODE, &[], false)
                .unwrap();
            files.sync_file_system(Path::new("/d")).unwrap();
            files.unlink(&path("marker")).unwrap();
            if sync {
                files.sync_file_system(Path::new("/d")).unwrap();
            }
            disk.lose_power(seed);
            usize::from(disk.mount().stat(&path("marker")).is_ok())
        };
        (0..20).map(after).sum::<usize>()
    };
    assert_eq!(undone(true), 0);
    assert!(undone(false) > 0);
}

#[test]
fn a_dead_process_changes_nothing_and_holds_no_lock() {
    let disk = ModelDisk::new();
    let files = mounted(&disk);
    let lock = files.lock(&path("lock")).unwrap();
    assert!(lock.is_some());
    let other = disk.mount();
    assert!(other.lock(&path("lock")).unwrap().is_none());
    files.die();
    assert!(files.create(&path("a"), FILE_MODE, &[], false).is_err());
    assert!(files.unlink(&path("lock")).is_err());
    assert!(other.lock(&path("lock")).unwrap().is_some());
}

#[test]
fn a_full_disk_refuses_content_and_names() {
    let disk = ModelDisk::new();
    let files = mounted(&disk);
    disk.set_limits(Some(5), Some(2));
    let full = |result: io::Result<()>| {
        result.unwrap_err().raw_os_error() == Some(nix::errno::Errno::ENOSPC as i32)
    };
    assert!(full(files.create(
        &path("a"),
        FILE_MODE,
        &["123456".into()],
        false
    )));
    files
        .create(&path("a"), FILE_MODE, &["12345".into()], false)
        .unwrap();
    assert!(full(files.write_at(&path("a"), 5, b"6")));
    files.create(&path("b"), FILE_MODE, &[], false).unwrap();
    assert!(full(files.create(&path("c"), FILE_MODE, &[], false)));
    disk.set_limits(None, None);
    files
        .create(&path("c"), FILE_MODE, &["1".into()], false)
        .unwrap();
}

#[test]
fn a_copy_of_a_directory_can_be_put_back() {
    let disk = ModelDisk::new();
    let files = mounted(&disk);
    files
        .create(&path("a"), FILE_MODE, &["old".into()], false)
        .unwrap();
    let copy = disk.copy_of(Path::new("/d"));
    files.unlink(&path("a")).unwrap();
    files.create(&path("b"), FILE_MODE, &[], false).unwrap();
    disk.put_back(Path::new("/d"), &copy);
    assert_eq!(files.read(&path("a")).unwrap(), "old");
    assert!(files.stat(&path("b")).is_err());
    disk.put_back(Path::new("/d"), &DirCopy::default());
    assert!(files.list(Path::new("/d")).is_err());
}
