//! Tests of the memory of sessions: who gets windows and claims, and who waits.

use futures_util::{FutureExt as _, poll};
use rstest::rstest;

use super::*;

fn user(name: &str) -> UserId {
    format!("{name}@pbs").parse().expect("an id")
}

/// With this much memory configured.
fn memory(mib: u64) -> Arc<ProtocolMemory> {
    ProtocolMemory::new(MemoryBudget::new(mib * MIB - WINDOWS_BYTES_SET_ASIDE))
}

#[rstest]
#[case(64)]
#[case(256)]
#[tokio::test(start_paused = true)]
async fn sixty_four_of_each_sort_are_admitted_at_once_whatever_is_held(#[case] mib: u64) {
    let memory = memory(mib);
    let first = memory.open_writer(&user("a")).await.expect("room");
    assert_eq!(first.window.streams(), STREAMS_MAX);
    // Others hold all that is left.
    let rest = memory.budget.try_take(memory.budget.bytes_free());
    let (mut writers, mut readers) = (vec![first], Vec::new());
    for _ in 1..SESSIONS_SURE {
        let writer = memory.open_writer(&user("a")).now_or_never();
        writers.push(writer.expect("no wait").expect("room"));
    }
    for _ in 0..SESSIONS_SURE {
        let reader = memory.open_reader(&user("a")).now_or_never();
        readers.push(reader.expect("no wait").expect("room"));
    }
    assert!(
        memory.open_writer(&user("a")).await.is_none(),
        "one too many"
    );
    assert!(
        memory.open_reader(&user("a")).await.is_none(),
        "one too many"
    );
    writers.pop();
    assert!(
        memory.open_writer(&user("a")).await.is_some(),
        "one has left"
    );
    drop(rest);
    assert!(
        memory.open_reader(&user("a")).await.is_some(),
        "there is room again"
    );
}

#[rstest]
#[case(64)]
#[case(256)]
#[case(4096)]
#[tokio::test(start_paused = true)]
async fn windows_shrink_as_sessions_come_and_leave_room_for_bodies(#[case] mib: u64) {
    let memory = memory(mib);
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS_SURE {
        sessions.push(memory.open_writer(&user("a")).await.expect("room"));
    }
    let windows: Vec<&Window> = sessions.iter().map(|session| &session.window).collect();
    let least = windows.last().expect("some").bytes();
    assert!(u64::from(least) >= WRITER_WINDOW_BYTES_MIN);
    assert!(windows[0].bytes() >= 4 << 20, "{windows:?}");
    assert!(memory.budget.bytes_free() >= BODIES_BYTES_MIN);
    for window in windows {
        let stream = stream_window_bytes(window.bytes(), window.streams());
        assert!(stream >= 4 * 1024, "{window:?}");
        if u64::from(window.bytes()) >= WRITER_WINDOW_BYTES_FULL {
            assert!(stream >= 16 * 1024 && window.streams() == STREAMS_MAX);
        }
    }
    drop(sessions);
    assert_eq!(memory.budget.bytes_free(), memory.budget.bytes_max());
    assert_eq!(
        memory.windows_bytes_free(),
        memory.windows_bytes_max / KIB * KIB
    );
}

#[tokio::test(start_paused = true)]
async fn claims_are_granted_in_order_within_the_share() {
    let memory = memory(64);
    let session = memory.open_writer(&user("a")).await.expect("room");
    let claims = session.claims.clone();
    let share = memory.session_bytes_max();
    let longest = CHUNK_ENCODED_BYTES_MAX as u64;
    assert!(share >= longest && share <= 31 * MIB);
    let first = claims.take(longest).await.expect("granted");
    let large = claims.take(longest);
    let small = claims.take(1);
    tokio::pin!(large, small);
    assert!(poll!(&mut large).is_pending(), "beyond the share");
    assert!(poll!(&mut small).is_pending(), "waits for its turn");
    let other = memory.open_writer(&user("b")).await.expect("room");
    let elsewhere = other.claims.take(longest).await;
    assert!(elsewhere.is_some(), "another session has its own share");
    drop(first);
    assert!(large.await.is_some());
    assert!(small.await.is_some());
}

#[rstest]
#[case(64)]
#[case(256)]
#[tokio::test(start_paused = true)]
async fn no_user_takes_it_all(#[case] mib: u64) {
    let memory = memory(mib);
    let longest = CHUNK_ENCODED_BYTES_MAX as u64;
    let (mut sessions, mut held) = (Vec::new(), Vec::new());
    for _ in 0..SESSIONS_SURE {
        let session = memory.open_writer(&user("a")).await.expect("room");
        held.extend(session.claims.take(longest).now_or_never().flatten());
        sessions.push(session);
    }
    assert!(!held.is_empty());
    let waiting = sessions[SESSIONS_SURE - 1].claims.clone();
    let waiting = waiting.take(longest);
    tokio::pin!(waiting);
    assert!(poll!(&mut waiting).is_pending(), "beyond the user's share");
    let other = memory.open_reader(&user("b")).await.expect("room");
    let other = other.claims.take(4 * MIB).now_or_never();
    assert!(other.flatten().is_some(), "another user has room");
    drop(held);
    assert!(waiting.await.is_some());
    drop(sessions);
    assert_eq!(memory.user(&user("a")).lock().held, 0);
}

#[tokio::test(start_paused = true)]
async fn waiters_that_leave_are_passed_over() {
    let memory = memory(64);
    let session = memory.open_writer(&user("a")).await.expect("room");
    let claims = session.claims.clone();
    let longest = CHUNK_ENCODED_BYTES_MAX as u64;
    let first = claims.take(longest).await.expect("granted");
    {
        let gone = claims.take(longest);
        tokio::pin!(gone);
        assert!(poll!(&mut gone).is_pending());
    }
    {
        let next = claims.take(longest);
        tokio::pin!(next);
        assert!(poll!(&mut next).is_pending());
        drop(first);
        assert!(next.await.is_some());
    }
    assert_eq!(claims.0.lock().held, 0);
    drop((session, claims));
    assert_eq!(memory.budget.bytes_free(), memory.budget.bytes_max());
}

#[tokio::test(start_paused = true)]
async fn answers_count_against_the_share_with_their_real_size() {
    let memory = memory(64);
    let session = memory.open_reader(&user("a")).await.expect("room");
    let share = memory.session_bytes_max();
    let mut answers = Vec::new();
    for _ in 0..share / ANSWER_BYTES_LIKELY {
        answers.push(session.claims.answer().await.expect("room"));
    }
    let one_more = session.claims.answer();
    tokio::pin!(one_more);
    assert!(poll!(&mut one_more).is_pending());
    answers[0].resize(1000);
    assert!(one_more.await.is_some());
    answers[1].resize(16 * MIB);
    drop(answers);
    assert_eq!(session.claims.0.lock().held, 0);
}
