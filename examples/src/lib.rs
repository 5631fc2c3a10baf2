//! Programs that use qbroker for real.
