//! The core's promises: scripts with their transcripts, and random commands against a plain model.
//!
//! Every command of every test also proves recovery: see [`stage`].

mod ages;
mod args;
mod check;
mod commands;
mod effects;
mod fairness;
mod full;
mod mend;
mod model;
mod operations;
mod producers;
mod purges;
mod queues;
mod random;
mod schedules;
mod script;
mod show;
mod stage;
mod state;
mod steps;
mod streams;

use script::check_script;

/// One test per file of `testdata`; `QBROKER_UPDATE=1` rewrites the files.
macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident)*) => {
        $($(#[$doc])* #[test] fn $name() { check_script(stringify!($name)); })*

        #[test]
        fn every_script_is_run() {
            script::check_all_named(&[$(stringify!($name)),*]);
        }
    };
}

scripts! {
    publish
    order
    priority
    lease
    extend
    begun
    settle
    settle_limit
    nack
    max_attempts
    nack_limit
    crash
    release
    dead_letter
    dead_letter_name
    patch
    effects
    effects_meet
    passed_over
    too_large
    due_order
    pull_bytes
    chase
    operation_clock
    state_values
    state_counters
    state_permits
    state_permits_order
    state_barriers
    state_effects
    state_limit
    state_disk_full
    schedule
    schedule_missed
    schedule_refused
    retention
    ttl
    outcomes
    outcomes_limit
    outcomes_meet
    unreadable
    delay
    session
    session_streams
    session_reset
    subscribe
    disconnect
    restart
    pull
    pull_again
    window
    fair
    rank
    weight
    queue_window
    max_leased
    max_delivery_rate
    drain
    purge
    purge_letters
    max_length
    max_length_meets
    retention_bytes
    update
    remove
    totals
    operation
    move_meets
    redrive
    pause
    queue
    queue_limit
    no_auto_create
    limits
    producer
    producer_forgotten
    message_id
    message_id_limit
    unique_key
    fairness_key
    ordering_key
    ordering_key_line
    keys_meet
    disk_full
    freeze
    meet
}
