//! Calls that wait for something of the state to change.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::{Engine, State};
use crate::queue::state::{Key, Kind, Waiter};

/// Hears of changes under its keys while it lives.
#[derive(Debug)]
pub struct Watching {
    engine: Arc<Engine>,
    kind: Kind,
    keys: Vec<Key>,
    waiter: Waiter,
    changed: Arc<Notify>,
}

/// One who hears of changes under a key.
#[derive(Debug)]
pub(super) struct Watcher {
    changed: Arc<Notify>,
    /// Of permits: how many there are for him.
    limit: usize,
}

impl Engine {
    /// Hears of changes under these keys from now on. To be taken before the first look.
    pub fn watch_state(self: &Arc<Self>, kind: Kind, keys: &[Key]) -> Watching {
        self.watch(kind, keys, 0)
    }

    /// Hears when a permit of this key may be had, where there are so many.
    pub fn watch_permits(self: &Arc<Self>, key: &Key, limit: u32) -> Watching {
        self.watch(Kind::Permit, std::slice::from_ref(key), limit as usize)
    }

    fn watch(self: &Arc<Self>, kind: Kind, keys: &[Key], limit: usize) -> Watching {
        let changed = Arc::new(Notify::new());
        let mut state = self.state.lock();
        let waiter = state.core.watch_state(kind, keys);
        for key in keys {
            let watcher = Watcher { changed: changed.clone(), limit };
            state.watchers.entry((kind, key.clone())).or_default().push(watcher);
        }
        Watching { engine: self.clone(), kind, keys: keys.to_vec(), waiter, changed }
    }
}

impl Watching {
    /// The next change, counted from this call on, whether it is waited for by then or not. It may not
    /// be durable yet: what is asked after it is.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Who it is among those that wait.
    pub fn waiter(&self) -> Waiter {
        self.waiter
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut state = self.engine.state.lock();
        state.core.unwatch_state(self.kind, &self.keys, self.waiter);
        for key in &self.keys {
            let name = (self.kind, key.clone());
            if let Some(watchers) = state.watchers.get_mut(&name) {
                watchers.retain(|watcher| !Arc::ptr_eq(&watcher.changed, &self.changed));
                if watchers.is_empty() {
                    state.watchers.remove(&name);
                } else if self.kind == Kind::Permit {
                    // What is free may have been this one's, and is the next one's then.
                    state.state_changed(self.kind, key.clone());
                }
            }
        }
    }
}

impl State {
    /// Wakes who waits for a change; of those who wait for permits only as many as may have one by now.
    pub(super) fn state_changed(&self, kind: Kind, key: Key) {
        let taken = if kind == Kind::Permit { self.core.permits_taken(&key) } else { 0 };
        let watchers = self.watchers.get(&(kind, key));
        for (ahead, watcher) in watchers.into_iter().flatten().enumerate() {
            if kind != Kind::Permit || taken + ahead < watcher.limit {
                watcher.changed.notify_waiters();
            }
        }
    }
}
