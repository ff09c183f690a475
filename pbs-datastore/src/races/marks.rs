//! What other programs do to the files of a collection while it runs.

use std::fs;

use rstest::rstest;
use s3_client::{Fault, Op};

use super::collect::garbage;
use super::*;
use crate::chunk_store::protection::Protection;

/// What is done to the marks between the mark and the sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    FoldersRemoved,
    TimesPutBack,
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn what_an_index_names_stays_although_its_mark_is_gone(
    #[values(Harm::FoldersRemoved, Harm::TimesPutBack)] harm: Harm,
) {
    let mut world = World::new();
    world.config.list_ranges = 1;
    let life = garbage(&world, &["used", "unused"]).await;
    world.snapshot("host/a/1", &[digest("used")]);
    let before = life.marker(&digest("used")).await.unwrap().used;
    let listing = Fault::on(Op::List).containing(".chunks/");
    let gate = world.plan.stop_before(listing);
    let (status, ()) = tokio::join!(life.collect(), async {
        gate.reached().await;
        let marked = life.marker(&digest("used")).await.unwrap().used;
        assert!(marked > before, "the mark comes before the sweep");
        let chunks = world.dir.path().join("cache/.chunks");
        for folder in fs::read_dir(chunks).unwrap() {
            let folder = folder.unwrap().path();
            match harm {
                Harm::FoldersRemoved => fs::remove_dir_all(folder).unwrap(),
                Harm::TimesPutBack => {
                    for marker in fs::read_dir(folder).unwrap() {
                        OsFiles.touch(&marker.unwrap().path(), before).unwrap();
                    }
                }
            }
        }
        gate.release();
    });
    let status = status.unwrap();
    assert!(
        world.holds(&life, &digest("used")),
        "a chunk that an index names was deleted"
    );
    assert_eq!((status.removed_chunks, status.disk_chunks), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_once_the_cache_directory_is_gone() {
    for gone in ["cache", "cache/.holdfast/owner.json"] {
        let mut world = World::new();
        world.config.list_ranges = 1;
        let life = garbage(&world, &["one"]).await;
        let listing = Fault::on(Op::List).containing(".chunks/");
        let gate = world.plan.stop_before(listing);
        let (status, ()) = tokio::join!(life.collect(), async {
            gate.reached().await;
            let gone = world.dir.path().join(gone);
            if gone.is_dir() {
                fs::remove_dir_all(gone).unwrap();
            } else {
                fs::remove_file(gone).unwrap();
            }
            gate.release();
        });
        let error = status.expect_err(gone).to_string();
        assert!(error.contains("restart the daemon"), "{gone}: {error}");
        assert!(world.holds(&life, &digest("one")), "{gone}");
    }
}

#[test]
fn a_directory_of_markers_that_is_gone_is_an_error_and_not_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let markers = Markers::new(dir.path());
    fs::create_dir_all(markers.uploads()).unwrap();
    assert!(Protection::read(&OsFiles, &markers).is_err());
    fs::create_dir_all(markers.using()).unwrap();
    assert!(Protection::read(&OsFiles, &markers).is_ok());
}
