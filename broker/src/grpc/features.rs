//! The features that this version has, by the names that clients ask for.

/// Here where the search index is on.
pub(super) const FIND_MESSAGES: &str = "find_messages";

/// What `GetServerInfo` tells.
pub(super) const FEATURES: &[&str] = &[
    // Each on its own line: they come from many hands.
    "admin_request_id",
    "delete_messages",
    "delete_messages_by_id",
    "effects",
    "fairness_key",
    FIND_MESSAGES,
    "get_message",
    "list_consumers",
    "list_order",
    "max_delivery_rate",
    "max_leased",
    "message_filter",
    "max_length",
    "message_max_attempts",
    "move_messages",
    "nack_max_attempts",
    "operations",
    "ordering_key",
    "patch",
    "pause",
    "policy_as_set",
    "priority",
    "pull_request_id",
    "purge_dead_letters",
    "queue_rank",
    "queue_window",
    "reports_started",
    "schedule",
    "state",
    "subscribe",
    "retention_bytes",
    "trace",
    "ttl",
    "unique_key",
    "update_messages",
    "watch",
    "watch_stats",
];
