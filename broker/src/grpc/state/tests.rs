//! Who is woken by what.

use crate::engine::Watching;
use crate::grpc::stage::Stage;
use crate::queue::state::{AcquirePermit, Holder, Key, PermitId};

/// Who waits for a permit of which there are so many.
fn acquire(limit: u32) -> AcquirePermit {
    AcquirePermit {
        key: "printer".into(),
        limit,
        ttl_ms: 60_000,
        holder: Holder::Nobody,
        request_id: String::new(),
    }
}

/// Once all that waited were woken, each time, to find that one of them was faster.
#[test]
fn a_permit_wakes_those_that_may_have_it_and_no_others() {
    let stage = Stage::set();
    let engine = &stage.context.engine;
    let take = |limit: u32, waiter| {
        let taken =
            engine.turn(|core, now, out| core.acquire_permit(&acquire(limit), waiter, now, out));
        taken.unwrap().1.unwrap()
    };
    let release = |id: PermitId| {
        engine.turn(|core, _, out| core.release_permit(id, out)).unwrap().1.unwrap();
    };
    let held: Vec<PermitId> = (0..3).map(|_| take(3, None).unwrap()).collect();
    let key: Key = "printer".into();
    let mut waiting: Vec<_> =
        [3, 1, 3, 5].iter().map(|&limit| (limit, engine.watch_permits(&key, limit))).collect();
    // Whom it wakes that something is done.
    let woken = |waiting: &[(u32, Watching)], done: &dyn Fn()| -> Vec<usize> {
        let mut changes: Vec<_> =
            waiting.iter().map(|(_, watching)| Box::pin(watching.changed())).collect();
        assert!(changes.iter_mut().all(|change| !change.as_mut().enable()), "nothing has changed");
        done();
        let woken = changes.iter_mut().map(|change| change.as_mut().enable());
        (0..).zip(woken).filter(|(_, woken)| *woken).map(|(at, _)| at).collect()
    };
    // Two are free for the first; of five three, but three are before the last one.
    assert_eq!(woken(&waiting, &|| release(held[0])), [0]);
    assert_eq!(woken(&waiting, &|| release(held[1])), [0, 3]);
    // Who has taken one, or gives up, makes room for the next.
    let first = waiting.remove(0).1;
    assert!(take(3, Some(first.waiter())).is_some());
    assert!(woken(&waiting, &|| ()).is_empty());
    let first = std::cell::Cell::new(Some(first));
    assert_eq!(woken(&waiting, &|| drop(first.take())), [2]);
}
