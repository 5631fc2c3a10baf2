//! The features that this version has, by the names that the protocol's files give them.

/// What `GetServerInfo` tells; a field or a call of any other feature is refused by its name.
pub(super) const FEATURES: &[&str] = &[
    // Each on its own line: they come from many hands.
    "admin_request_id",
    "delete_messages",
    "delete_messages_by_id",
    "fairness_key",
    "get_message",
    "list_consumers",
    "max_delivery_rate",
    "max_leased",
    "message_filter",
    "message_max_attempts",
    "move_messages",
    "operations",
    "ordering_key",
    "pause",
    "policy_as_set",
    "priority",
    "pull_request_id",
    "queue_rank",
    "queue_window",
    "reports_started",
    "subscribe",
    "ttl",
    "unique_key",
    "update_messages",
    "watch_stats",
];
