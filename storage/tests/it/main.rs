//! What the log promises, a file per promise.

mod model;

mod append;
