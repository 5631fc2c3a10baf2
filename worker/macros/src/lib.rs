//! The attribute `#[actor]`, which `qbroker-worker` exports and documents.
#![warn(missing_docs)]

mod duration;
mod options;
mod signature;
mod expand;

use proc_macro::TokenStream;

/// Makes an actor of a function; see `qbroker_worker::actor`.
#[proc_macro_attribute]
pub fn actor(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let made = expand::actor(attribute.into(), item.into());
    made.unwrap_or_else(|error| error.into_compile_error()).into()
}
